"""Why a module can't be captured, said in one line with the line of the user's code."""

import contextlib
import io
import logging
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator

import torch

from karui.errors import CaptureError

_OURS = os.path.dirname(__file__) + os.sep
_FOREIGN = (os.path.dirname(torch.__file__) + os.sep, sysconfig.get_paths()["stdlib"] + os.sep, _OURS, "<")
_SHAPES = "torch.fx.experimental.symbolic_shapes"


def is_users(file: str) -> bool:
    """Whether a source file is the user's: not torch's, not the standard library's, not this room's."""
    site_packages = f"{os.sep}site-packages{os.sep}"
    return not file.startswith(_FOREIGN) or (site_packages in file and not file.startswith(_FOREIGN[0]))


def line_of(error: BaseException) -> str:
    """``file:line: `` of the innermost user's frame that an error went through (a torch layer's call if none), or an empty string."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if len(frames) > 1 or (frames and "forward" in frames[-1].name) else ""


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, shortened."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else text[:197] + "…"


class Watcher(logging.Handler):
    """Listens to where torch fixes a free size, while the user's code is on the stack."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        if not self.line and record.getMessage().startswith("set_replacement"):
            frames = [frame for frame in traceback.extract_stack(sys._getframe()) if is_users(frame.filename) and frame.name != "<module>"]
            inner = [frame for frame in frames if not frame.filename.startswith(_OURS)]
            self.line = f"{inner[-1].filename}:{inner[-1].lineno}: " if inner else ""


@contextlib.contextmanager
def watching() -> Iterator[Watcher]:
    """Run ``torch.export`` silently (it prints whole graphs when it gives up) and note where it fixes a size."""
    watcher, logger = Watcher(), logging.getLogger(_SHAPES)
    before = (logger.level, logger.propagate, logger.handlers)
    others = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch._dynamo")]
    disabled = [other.disabled for other in others]
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = False, [watcher]
    for other in others:
        other.disabled = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # recurrent layers are warned of for a list of their own weights
            yield watcher
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers = before[1], before[2]
        for other, was in zip(others, disabled):
            other.disabled = was


def explain(error: Exception, watcher: Watcher) -> CaptureError:
    """What torch.export stumbled over, and what to try."""
    text, line = str(error), line_of(error)
    if "Constraints violated" in text:
        return fixed_batch(watcher.line)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return CaptureError(
            f"{line}forward depends on the values of a tensor (an if, a loop or an .item() on it), so it is no single graph;"
            " try torch.where, or move the decision out of forward"
        )
    if ".numpy()" in text:
        return CaptureError(f"{line}forward leaves torch (.numpy()), which a graph can't follow; use torch's own functions")
    if "Unsupported" in type(error).__name__ or "nsupported" in text:
        return CaptureError(
            f"{line}torch.export can't follow this: {reason_of(error)}; use plain tensor code and return tensors, tuples or dicts"
        )
    return CaptureError(f"{line}torch.export can't capture this network: {reason_of(error)}; try to write this line as plain tensor code")


def fixed_batch(line: str) -> CaptureError:
    """The network takes only the example's number of samples."""
    return CaptureError(
        f"{line}the network fixes its batch size here (a written-out number of samples, a loop over them, or samples mixed with channels);"
        " use x.size(0) (not len(x)), -1 or flatten(1), so that any batch size works"
    )
