"""C on a device behind ``ssh``: an sshd of the test's own, and for what may go wrong a command ``ssh`` that stays on this machine."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from karui.errors import RecipeError, ToolError
from karui.export import c
from karui.program.interpreter import run
from karui.program.program import Array
from karui.run import cross, host, ssh
from karui.run.elf import Sections
from tests.export.many import agree, inputs_of
from tests.program import builders

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs an SSH server: apt-get install openssh-server")
needs_kind = pytest.mark.skipif(os.uname().machine not in ssh.KINDS, reason="needs a processor that programs are compiled for")
QUICK = ("-O1",)


def script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


# ── A real server ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and temporary folder of a device that is this machine; ``ssh`` in PATH knows its keys."""
    folder = tmp_path_factory.mktemp("sshd")
    device = folder / "device"
    device.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}", encoding="utf-8")
    ours = [f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/user.pub", f"PidFile {folder}/pid", f"SetEnv TMPDIR={device}"]
    plain = ["ListenAddress 127.0.0.1", "StrictModes no", "UsePAM no", "PermitRootLogin yes", "PasswordAuthentication no"]
    (folder / "sshd_config").write_text("\n".join([f"Port {port}", *ours, *plain]) + "\n", encoding="utf-8")
    (folder / "ssh_config").write_text(
        f"Host *\n IdentityFile {folder}/user\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n", encoding="utf-8"
    )
    script(folder / "bin" / "ssh", f'exec {shutil.which("ssh")} -F {folder}/ssh_config "$@"')
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself up; its package makes it when the machine starts
    daemon = subprocess.Popen([str(SSHD), "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "log").open("w"))
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.skip(f"sshd doesn't start here: {(folder / 'log').read_text()[-300:]}")
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", device
    finally:
        patch.undo()
        daemon.terminate()
        daemon.wait()


@needs_sshd
@needs_kind
def test_answers_times_and_nothing_left(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    device = ssh.look(address)
    assert device.kind is ssh.KINDS[os.uname().machine] and device.about
    p = builders.lenet(integer=True, sparsity=0.8)
    inputs = inputs_of(p, 7)
    with ssh.build(c.write(p, tmp_path, machine=device.kind.machine), device, flags=QUICK) as remote:
        agree(p, remote.run(inputs), run(p, inputs))
        timing = remote.latency(inputs)
        assert [each.name for each in folder.iterdir()] == [Path(remote.folder).name]
    assert 0 < timing.p10 <= timing.median_ms <= timing.p90 < 1000 and timing.runs >= 5
    assert remote.bytes > 1000 and remote.peak_ram == remote.signature.arena_bytes > 0
    assert not [*folder.iterdir()]


@needs_sshd
def test_a_host_that_ssh_does_not_know_is_refused(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = server
    with pytest.raises(ToolError, match=r"no connection \(.*; see that this works without a question: ssh -p \d+ -l \S+ -- localhost true"):
        ssh.look(address.replace("127.0.0.1", "localhost"))
    with pytest.raises(ToolError, match=r"no connection \(.*Permission denied"):
        ssh.look(address.replace(f"{getpass.getuser()}@", "nobody-of-that-name@"))


# ── What may go wrong, without a network ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands of a device that is this machine; a test may put others there."""
    commands, device = tmp_path / "commands", tmp_path / "device"
    commands.mkdir()
    device.mkdir()
    script(
        tmp_path / "bin" / "ssh",
        f'for last; do :; done\nprintf "%s\\n" "$@" >>{tmp_path}/calls\nexport PATH={commands}:$PATH TMPDIR={device}\nexec sh -c "$last"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return commands


def pretended(folder: Path, program: str) -> AbstractContextManager[ssh.Remote]:
    """A script in the place of a compiled LeNet-5, on the device."""
    signature = host.read_header(c.write(builders.lenet(integer=True), folder / "model").main.with_suffix(".h"))
    script(folder / "pretended", program)
    made = cross.Crossed(signature=signature, sections=Sections(text=1, rodata=0, data=0, bss=0), binary=folder / "pretended")
    return ssh.placed(made, ssh.Device(address="ssh://here", arguments=("--", "here"), kind=ssh.Kind(triple=()), about="a script"))


def sample() -> list[Array]:
    return inputs_of(builders.lenet(integer=True), 1)


def test_addresses() -> None:
    assert ssh.arguments_of("ssh://pi@raspberrypi.local:2222") == ("-p", "2222", "-l", "pi", "--", "raspberrypi.local")
    assert ssh.arguments_of("ssh://board/") == ("--", "board")
    assert ssh.arguments_of("ssh://pi@[fe80::1]") == ("-l", "pi", "--", "fe80::1")
    for bad in (
        "board",
        "ssh://",
        "ssh://-oProxyCommand=id",
        "ssh://a b",
        "ssh://a;id",
        "ssh://-l@host",
        "ssh://host:0",
        "ssh://host:70000",
    ):
        with pytest.raises(RecipeError, match="is no address of a device; write ssh://user@host"):
            ssh.arguments_of(bad)


def test_every_call_asks_nothing_and_quotes_its_words(here: Path, tmp_path: Path) -> None:
    told = ssh._call(
        "ssh://here", ssh.arguments_of("ssh://me@here:22"), 'printf "%s|" "$@"; cat', "a b", "$(id)", "'", what="x", stdin=b"in"
    )
    assert told == b"a b|$(id)|'|in"
    assert (tmp_path / "calls").read_text().split("\n")[:3] == ["-T", "-o", "BatchMode=yes"]


@pytest.mark.parametrize(
    ("uname", "message"),
    [
        ("echo Linux; echo mips", "is Linux on mips; programs are compiled for Linux on aarch64"),
        ("echo Darwin", "is Darwin on Darwin"),
    ],
)
def test_wrong_processor_or_system(uname: str, message: str, here: Path) -> None:
    first, *rest = uname.split("; ")
    script(here / "uname", f'case "$1" in -s) {first};; *) {rest[0] if rest else first};; esac')
    with pytest.raises(ToolError, match=message):
        ssh.look("ssh://here")


def test_an_instruction_that_the_processor_lacks(here: Path, tmp_path: Path) -> None:
    with (
        pretended(tmp_path, "kill -ILL $$") as remote,
        pytest.raises(ToolError, match="'model' on 'ssh://here': the processor d"),
    ):
        remote.run(sample())


def test_a_program_that_ends_itself_after_a_while(here: Path, tmp_path: Path) -> None:
    with pretended(tmp_path, "kill -ALRM $$") as remote, pytest.raises(ToolError, match="ran for more than 600 s and was ended; take"):
        remote.run(sample())
    assert not [*(tmp_path / "device").iterdir()]


def test_a_program_that_fails(here: Path, tmp_path: Path) -> None:
    with (
        pretended(tmp_path, "echo one; echo two >&2; exit 2") as remote,
        pytest.raises(ToolError, match=r"with status 2 \(two\); try"),
    ):
        remote.run(sample())


def test_a_device_that_does_not_answer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(here / "uname", "exec sleep 20")
    monkeypatch.setattr(ssh, "CONNECT", 0.2)
    with pytest.raises(ToolError, match="'ssh://here' took more than 0.4 s; see whether 'ssh://here' is well"):
        ssh.look("ssh://here")


def test_no_space_on_the_device(here: Path, tmp_path: Path) -> None:
    real = shutil.which("mktemp")
    script(here / "mktemp", f'folder=$({real} "$@") && ln -s /dev/full "$folder/program" && echo "$folder"')
    with pytest.raises(ToolError, match="no space is left on the device; free some"), pretended(tmp_path, "exit 0"):
        pass
    assert not [*(tmp_path / "device").iterdir()]


def test_an_upload_that_breaks_off_leaves_nothing(here: Path, tmp_path: Path) -> None:
    script(here / "cat", "head -c 5")
    with pytest.raises(ToolError, match="'ssh://here'"), pretended(tmp_path, "exit 0"):
        pass
    assert not [*(tmp_path / "device").iterdir()]


def test_a_shell_that_talks(here: Path, tmp_path: Path) -> None:
    with pretended(tmp_path, "echo welcome") as remote:
        with pytest.raises(ToolError, match="8 bytes came back, more or fewer than the answers; see that its login shell prints nothing"):
            remote.run(sample())


def test_no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match=r"'ssh' was not found; install it \(Debian: apt install openssh-client\)"):
        ssh.look("ssh://here")


@pytest.mark.parametrize("folder", ["karui.x", "/karui.x", "a", "/a/karui.x;b", "/a/b/"])
def test_a_temporary_folder_of_any_other_sort_is_refused(folder: str, here: Path, tmp_path: Path) -> None:
    script(here / "mktemp", f"echo '{folder}'")
    script(here / "rm", f"touch {tmp_path}/removed")
    with pytest.raises(ToolError, match="'ssh://here'"), pretended(tmp_path, "exit 0"):
        pass
    assert not (tmp_path / "removed").exists() or ";" in folder  # that one can't be made, so there is nothing to remove
