"""The installer: steps that look before they act, remember what they did, and can undo it.

Rule: standard library only, run with the distribution's own Python; what was not made here is never changed or
removed.
"""
