"""Who is asking, and may they: people, sign-in links, sessions, tokens, throttling and forward-auth."""
