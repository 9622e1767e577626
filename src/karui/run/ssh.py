"""Artefacts of target ``c`` on a device that the system's ``ssh`` reaches: ``ssh://user@host:port``.

The program is compiled here, by ziglang: the device needs no compiler, a big network doesn't keep a small processor busy for minutes, and
what is measured doesn't depend on which compiler happens to lie there. It is static, so no library of the device has a say either. It
travels through ``ssh`` itself, as ``scp`` wants a second service that small devices lack. Keys, known hosts and everything else are what
``ssh`` and its configuration say; nothing is asked (BatchMode).
"""

import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from karui.errors import RecipeError, ToolError
from karui.export.artifact import Artifact
from karui.program.program import Array
from karui.run import cross, host, measure

CONNECT = 10  # seconds until a host that doesn't answer is given up
GRACE = 30  # seconds that a connection may take beyond what the program may
OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT}", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]*)@)?(?:(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
_FOLDER = re.compile(r"/(?:[A-Za-z0-9_.+-]+/)*karui\.[A-Za-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What ``uname -m`` says, for us. triple: what ziglang is told; machine: of ``export.machines``, the fastest that it may be."""

    triple: tuple[str, ...]
    machine: str = "portable"


KINDS = {
    "aarch64": Kind(triple=("aarch64-linux-musl",), machine="pi5"),
    "x86_64": Kind(triple=("x86_64-linux-musl",), machine="x86-64-v4"),
    "armv7l": Kind(triple=("arm-linux-musleabihf",)),
    "armv8l": Kind(triple=("arm-linux-musleabihf",)),
    "armv6l": Kind(triple=("arm-linux-musleabihf", "-mcpu=arm1176jzf_s")),  # Raspberry Pi 1 and Zero
    "i686": Kind(triple=("x86-linux-musl",)),
    "riscv64": Kind(triple=("riscv64-linux-musl",)),
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """One that answered. address: as it was given; arguments: those of ``ssh`` up to the host; about: what it says of itself."""

    address: str
    arguments: tuple[str, ...]
    kind: Kind
    about: str


@dataclass(frozen=True, kw_only=True)
class Remote(host.Compiled):
    """A compiled model on a device, in ``folder`` there."""

    device: Device
    folder: str
    runs_on: ClassVar[str] = "ssh"

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Outputs ``[N, *shape]`` of N samples ``[N, *shape]``, each by itself. Raises ToolError where device or model fails."""
        told = self._program(cross.fed(self.signature, inputs))
        outputs = cross.answered(self.signature, told, len(inputs[0]))
        if outputs is None:
            raise ToolError(f"'{self.device.address}': {len(told)} bytes came back, more or fewer than the answers; {QUIET_SHELL}")
        return outputs

    def latency(self, inputs: Sequence[Array]) -> measure.Timing:
        """How long the first sample takes there, by the device's own clock: it is run again and again, as ``measure.latency`` does it."""
        told = self._program(cross.fed(self.signature, [a[:1] for a in inputs]), "time")
        if not told or len(told) % 8:
            raise ToolError(f"'{self.device.address}': no times came back; {QUIET_SHELL}")
        return measure.timing(np.frombuffer(told, "<f8").tolist())

    def _program(self, samples: bytes, *arguments: str) -> bytes:
        script = 'ulimit -c 0; program=$1/program; shift; "$program" "$@"; exit $?'
        what = f"'{self.signature.name}' on '{self.device.address}'"
        return _call(self.device.address, self.device.arguments, script, self.folder, *arguments, stdin=samples, what=what)


QUIET_SHELL = "see that its login shell prints nothing when a program calls it: ssh HOST true"


def arguments_of(address: str) -> tuple[str, ...]:
    """What ``ssh`` is told of ``ssh://[user@]host[:port]``. Raises RecipeError for anything else."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"] or 22) < 65536:
        raise RecipeError(f"'{address}' is no address of a device; write ssh://user@host or ssh://user@host:port")
    port = ("-p", found["port"]) if found["port"] else ()
    user = ("-l", found["user"]) if found["user"] else ()
    return (*port, *user, "--", found["host"] or found["ipv6"])


def look(address: str) -> Device:
    """See whether a device answers and what it is.

    Raises:
        RecipeError: an address that is none.   ToolError: no ssh, no connection, or a processor or system that nothing is compiled for.
    """
    arguments = arguments_of(address)
    script = (
        'echo "karui $(uname -s) $(uname -m)"; '
        r'model=$(tr -d "\000" 2>/dev/null </proc/device-tree/model || sed -n "s/^model name[^:]*: *//p" /proc/cpuinfo | head -n 1); '
        'echo "model $model"'
    )
    told = _call(address, arguments, script, what=f"'{address}'", seconds=2 * CONNECT).decode("utf-8", "replace")
    found = re.search(r"^karui (\S+) (\S+)$", told, re.M)
    if found is None:
        raise ToolError(f"'{address}' doesn't say what it is; karui needs a shell, uname, mktemp and cat there")
    if found[1] != "Linux" or found[2] not in KINDS:
        raise ToolError(f"'{address}' is {found[1][:40]} on {found[2][:40]}; programs are compiled for Linux on {', '.join(KINDS)}")
    model = re.search(r"^model (.*)$", told, re.M)
    return Device(address=address, arguments=arguments, kind=KINDS[found[2]], about=(model and model[1].strip()[:80]) or found[2])


@contextmanager
def build(artifact: Artifact, device: Device, *, flags: Sequence[str] = cross.FLAGS) -> Iterator[Remote]:
    """Compile an artefact of target ``c`` and put the program on the device, for as long as the block lasts: then its folder is removed.

    Raises ToolError: no ziglang, the compiler fails, no connection, no space.
    """
    with tempfile.TemporaryDirectory(prefix="karui-") as scratch:
        made = cross.compile_for(device.kind.triple, artifact, Path(scratch), timed=True, flags=flags)
        with placed(made, device) as remote:
            yield remote


@contextmanager
def placed(made: cross.Crossed, device: Device) -> Iterator[Remote]:
    """A program on the device for as long as the block lasts. Raises ToolError."""
    folder = _send(device, made.binary.read_bytes())
    try:
        yield Remote(signature=made.signature, sections=made.sections, device=device, folder=folder)
    finally:
        with suppress(ToolError):  # whatever went wrong before is the news; the device empties that place when it starts
            _call(device.address, device.arguments, 'rm -rf -- "$1"', folder, what=f"'{device.address}'", seconds=2 * CONNECT)


def _send(device: Device, program: bytes) -> str:
    """Put a program into a folder of its own, whole or not at all; returns the folder."""
    script = (
        'umask 077; folder=$(mktemp -d "${TMPDIR:-/tmp}/karui.XXXXXXXX") || exit 1; '
        "case $folder in /*/karui.*) ;; *) exit 1 ;; esac; "  # what is removed is ours beyond doubt
        'if cat >"$folder/program" && test "$(wc -c <"$folder/program")" -eq "$1" && chmod 700 "$folder/program"; '
        'then echo "karui $folder"; else rm -rf -- "$folder"; exit 1; fi'
    )
    told = _call(device.address, device.arguments, script, str(len(program)), stdin=program, what=f"'{device.address}'")
    found = re.search(r"^karui (\S+)$", told.decode("utf-8", "replace"), re.M)
    if found is None or not _FOLDER.fullmatch(found[1]):
        raise ToolError(f"'{device.address}' doesn't say where it keeps temporary files; set TMPDIR there to a plain path")
    return found[1]


def _call(
    address: str, arguments: Sequence[str], script: str, *words: str, what: str, stdin: bytes = b"", seconds: float | None = None
) -> bytes:
    """What a script of a POSIX shell prints on the device; the words are ``$1`` … there. Raises ToolError in one line."""
    remote = shlex.join(["sh", "-c", f"LC_ALL=C; export LC_ALL; {script}", "karui", *words])
    limit = cross.SECONDS + GRACE if seconds is None else seconds
    try:
        done = subprocess.run(["ssh", *OPTIONS, *arguments, remote], input=stdin, capture_output=True, timeout=limit, check=False)
    except FileNotFoundError as error:
        raise ToolError("'ssh' was not found; install it (Debian: apt install openssh-client)") from error
    except OSError as error:
        raise ToolError(f"'ssh' can't be started ({error.strerror}); install it again (Debian: apt install openssh-client)") from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{what} took more than {limit:g} s; see whether '{address}' is well, then try again") from error
    if done.returncode:
        raise ToolError(f"{what}: {_reason(done.returncode, done.stderr, arguments)}")
    return done.stdout


def _reason(status: int, said: bytes, arguments: Sequence[str]) -> str:
    """Why a call failed, and what to try."""
    last = cross.last_line(said)
    if status == 255:
        return f"no connection ({last}); see that this works without a question: {shlex.join(['ssh', *arguments, 'true'])}"
    if b"No space left on device" in said or b"Disk quota exceeded" in said:
        return "no space is left on the device; free some, or set TMPDIR there to another place"
    if status == 128 + signal.SIGILL:
        return "the processor doesn't know an instruction of this program; export it for that machine"
    if status == 128 + signal.SIGALRM:
        return f"the program ran for more than {cross.SECONDS} s and was ended; take a smaller network or fewer samples"
    if status == 126 and "Permission denied" in last:
        return "programs may not run from its temporary files; set TMPDIR there to a place where they may"
    return f"it failed with status {status} ({last}); try it there by hand"
