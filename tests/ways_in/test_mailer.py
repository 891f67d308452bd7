"""Handing letters to a real mail server: what goes over the wire, and every way it can fail."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.mailbox import PASSWORD, Mailbox, certificate, html, mailbox, plain, toml
from support.waiting import until

from appliance.errors import Invalid, SettingsError
from appliance.identity import mail
from appliance.identity.mail import Mailer, password_file
from appliance.identity.smtp import Letter, MailFault, compose
from appliance.settings import Paths, Settings, load


def letter(to: str = "salma@example.org", subject: str = "Hello", lifetime: float = 60) -> Letter:
    return Letter(to, subject, "plain words\n", "<p>words</p>", "en", lifetime)


def settings_for(folder: Path, text: str) -> Settings:
    (folder / "etc/croft.toml").write_text(text)
    return load(Paths.under(folder))


async def mailer_for(folder: Path, box: Mailbox, tls: str = "starttls", more: str = "") -> Mailer:
    made = Mailer(settings_for(folder, toml(box, folder, tls=tls, more=more)), pause=lambda tries: 0.05)
    await made.set_password(PASSWORD)
    return made


@asynccontextmanager
async def running(mailer: Mailer) -> AsyncIterator[Mailer]:
    task = asyncio.create_task(mailer.run())
    try:
        yield mailer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("tls", ["starttls", "tls", "none"])
async def test_a_letter_arrives(folder: Path, tls: str) -> None:
    with mailbox(folder, tls=tls) as box:
        await (await mailer_for(folder, box, tls)).send(letter(subject="Grüße, سلمى"))
    envelope, message = box.letters[0]
    assert (envelope.mail_from, envelope.rcpt_tos) == ("croft@croft.localhost", ["salma@example.org"])
    assert box.signed_in == [tls != "none"]
    assert message["Subject"] == "Grüße, سلمى"
    assert message["From"] == "Croft <croft@croft.localhost>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert (plain(message), html(message).strip()) == ("plain words\n", "<p>words</p>")


async def test_the_password_has_a_file_of_its_own(folder: Path, box: Mailbox) -> None:
    """SEC-1: owner-only, replaced whole, never in croft.toml."""
    mailer = await mailer_for(folder, box)
    path = password_file(load(Paths.under(folder)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in (folder / "etc/croft.toml").read_text()
    for bad in ("", "\n", "two\nlines", "bell\a", "x" * 1001):
        with pytest.raises(Invalid):
            await mailer.set_password(bad)
    assert path.read_text() == PASSWORD
    await mailer.set_password("another\n")
    assert path.read_text() == "another"


async def fault(mailer: Mailer, sent: Letter | None = None) -> MailFault:
    with pytest.raises(MailFault) as caught:
        await mailer.send(sent or letter())
    assert mailer.fault is caught.value
    return caught.value


async def test_a_wrong_password_is_told_apart(folder: Path, box: Mailbox) -> None:
    mailer = await mailer_for(folder, box)
    await mailer.set_password("wrong")
    said = await fault(mailer)
    assert said.code == "mail_sign_in"
    assert "wrong" not in said.message + said.hint + said.said
    await mailer.set_password(PASSWORD)
    await mailer.send(letter())
    assert mailer.fault is None, "the next letter that goes through clears it"


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_certificate_that_is_not_good_stops_everything(folder: Path, tls: str) -> None:
    """Nothing is sent, the password least of all, to a server that cannot prove its name."""
    with mailbox(folder, tls=tls, name="elsewhere.example") as box:
        assert (await fault(await mailer_for(folder, box, tls))).code == "mail_certificate"
    with mailbox(folder, tls=tls) as box:
        certificate(folder, "localhost")  # another authority than the server's
        assert (await fault(await mailer_for(folder, box, tls))).code == "mail_certificate"
    assert box.letters == []
    assert box.signed_in == []


async def test_protection_that_is_not_offered_is_not_done_without(folder: Path) -> None:
    with mailbox(folder, tls="none") as box:
        for tls in ("starttls", "tls"):
            assert (await fault(await mailer_for(folder, box, tls))).code == "mail_no_tls"
    assert box.letters == []


async def test_no_protection_is_for_this_machine_alone(folder: Path) -> None:
    with pytest.raises(SettingsError, match="only for a mail server on this machine"):
        settings_for(folder, '[mail]\nhost = "mail.example.org"\ntls = "none"\n')
    assert settings_for(folder, '[mail]\nhost = "127.0.0.1"\ntls = "none"\n').mail_tls == "none"


async def test_a_server_that_is_not_there(folder: Path) -> None:
    with mailbox(folder) as box:
        pass
    assert (await fault(await mailer_for(folder, box))).code == "mail_unreachable"


@pytest.mark.parametrize(
    ("answer", "code", "passing"), [("451 later", "mail_later", True), ("550 no", "mail_refused", False)]
)
async def test_refusals_are_told_apart(folder: Path, box: Mailbox, answer: str, code: str, passing: bool) -> None:
    mailer = await mailer_for(folder, box)
    box.answers = [answer]
    said = await fault(mailer)
    assert (said.code, said.passing) == (code, passing)


async def test_internationalised_addresses(folder: Path, box: Mailbox) -> None:
    """RFC 5891 for the domain; RFC 6531 for what stands before the @, where the server has it."""
    mailer = await mailer_for(folder, box)
    await mailer.send(letter("salma@مثال.إختبار"))
    assert box.letters[0][0].rcpt_tos == ["salma@xn--mgbh0fb.xn--kgbechtv"]
    await mailer.send(letter("سلمى@مثال.إختبار", "مرحبًا"))
    envelope, message = box.letters[1]
    assert envelope.rcpt_tos == ["سلمى@xn--mgbh0fb.xn--kgbechtv"]
    assert message["To"] == "سلمى@xn--mgbh0fb.xn--kgbechtv"
    for never in ("a@" + "x" * 64 + "é.example", "a@\u0301é.example"):
        assert (await fault(mailer, letter(never))).code == "mail_address"


async def test_a_server_without_smtputf8(folder: Path) -> None:
    with mailbox(folder, wide=False) as box:
        mailer = await mailer_for(folder, box)
        assert (await fault(mailer, letter("سلمى@example.org"))).code == "mail_address"
        await mailer.send(letter("salma@مثال.إختبار"))
    assert len(box.letters) == 1


@pytest.mark.parametrize("evil", ["a\r\nBcc: x@evil.example", "a\nX: y", "a\r\n\r\nbody", "a\0b"])
def test_nothing_typed_becomes_a_header(folder: Path, evil: str) -> None:
    """A subject or address that holds a line break is refused or folded, never a second header."""
    settings = settings_for(folder, "")
    for sent in (letter(subject=evil), letter(to=f"{evil}@example.org"), letter(to=f"a@{evil}")):
        try:
            raw = compose(settings, sent)[0]
        except (ValueError, MailFault):
            continue
        head = raw.split(b"\r\n\r\n")[0].lower()
        assert b"\r\nbcc:" not in head
        assert b"\r\nx:" not in head


async def test_a_letter_waits_for_the_server(folder: Path, box: Mailbox) -> None:
    """Tried again while it is of use; others do not wait for it."""
    async with running(await mailer_for(folder, box)) as mailer:
        box.answers = ["451 later", "451 later"]
        assert mailer.post(letter(subject="first"))
        await until(lambda: mailer.fault is not None, "the first refusal")
        assert mailer.post(letter(subject="second"))
        await until(lambda: len(box.letters) == 2, "both letters")
        assert {message["Subject"] for _, message in box.letters} == {"first", "second"}
        assert mailer.fault is None
        assert mailer.waiting == 0


async def test_a_refused_letter_is_not_tried_again(folder: Path, box: Mailbox) -> None:
    async with running(await mailer_for(folder, box)) as mailer:
        box.answers = ["550 no such person"]
        mailer.post(letter())
        await until(lambda: mailer.fault is not None, "the refusal")
        await mailer.send(letter(subject="next"))
        assert mailer.waiting == 0
        assert [message["Subject"] for _, message in box.letters] == ["next"]


async def test_a_letter_that_is_too_old_is_given_up(folder: Path) -> None:
    tried: list[str] = []

    async def never(settings: Settings, password: str, sent: Letter) -> None:
        tried.append(sent.subject)
        raise MailFault("mail_unreachable")

    settings = settings_for(folder, '[mail]\nhost = "localhost"\n')
    async with running(Mailer(settings, deliver=never, pause=lambda tries: 0.05)) as mailer:
        mailer.post(letter(lifetime=0.2))
        await until(lambda: mailer.waiting == 0 and len(tried) > 1, "giving up")


async def test_the_queue_is_bounded(folder: Path) -> None:
    settings = settings_for(folder, '[mail]\nhost = "localhost"\n')
    mailer = Mailer(settings)
    assert [mailer.post(letter()) for _ in range(mail.QUEUE_MAX + 5)].count(True) == mail.QUEUE_MAX
    assert not Mailer(settings_for(folder, "")).post(letter()), "nothing is taken while mail is off"


def test_pauses_grow_and_end() -> None:
    for tries in range(1, 2000, 7):
        assert 1 <= mail.pause(tries) <= mail.LONGEST_PAUSE


async def test_a_slow_server_does_not_hold_the_sender_for_ever(
    folder: Path, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.identity import smtp

    monkeypatch.setattr(smtp, "LETTER_SECONDS", 0.5)
    box.slow = 3
    assert (await fault(await mailer_for(folder, box))).code == "mail_unreachable"


async def test_an_idle_daemon_carries_no_mail_client() -> None:
    """F1: imported on first use."""
    import subprocess
    import sys

    code = "import appliance.daemon, appliance.serving, sys; print(sorted({'aiosmtplib', 'segno'} & set(sys.modules)))"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


async def test_the_sender_ends_when_it_is_told_to(folder: Path) -> None:
    """Even where the mail client loses the cancellation, as it may when an answer comes at that very moment."""
    sending = asyncio.Event()

    async def stubborn(settings: Settings, password: str, sent: Letter) -> None:
        sending.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    mailer = Mailer(settings_for(folder, '[mail]\nhost = "localhost"\n'), deliver=stubborn)
    task = asyncio.create_task(mailer.run())
    mailer.post(letter())
    await sending.wait()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done, "a stop that is lost would keep the daemon from ending"


async def test_letters_that_a_stop_loses_are_said_to_be_lost(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They hold links, which are on no disk: the next start knows nothing of them, so the log does."""
    tried: list[str] = []

    async def never(settings: Settings, password: str, sent: Letter) -> None:
        tried.append(sent.subject)
        raise MailFault("mail_unreachable")

    settings = settings_for(folder, '[mail]\nhost = "localhost"\n')
    async with running(Mailer(settings, deliver=never, pause=lambda tries: 60.0)) as mailer:
        for subject in ("one", "two"):
            mailer.post(letter(subject=subject, lifetime=600))
        await until(lambda: tried == ["one", "two"] and mailer.waiting == 2, "both were tried")
    (said,) = [record for record in caplog.records if "lost" in record.message]
    assert vars(said)["letters"] == 2
