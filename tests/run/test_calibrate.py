"""What this machine reaches: measured, and near to what its kernels took."""

import pytest

from karui.errors import ToolError
from karui.export import ceilings
from karui.export.machines import MACHINES
from karui.run import calibrate


@pytest.mark.slow
@pytest.mark.parametrize("machine", calibrate.machines())
def test_a_table_of_this_machine(machine: str, tmp_path: object) -> None:
    found = calibrate.calibrate(machine, seconds=0.3)
    assert found.measured and found.machine == machine
    assert ceilings.read(ceilings.keep(found, tmp_path / "t.json")) == found  # type: ignore[operator]
    peaks = found.ceilings
    assert 1 < peaks["int8"] < 5000 and peaks["int8"] > peaks["float"] and peaks["binary"] > peaks["int8"]
    assert peaks["l1"] > peaks["dram"]
    assert 0 < found.costs["panels.mac"] and 1 / found.costs["panels.mac"] < 1.5 * peaks["int8"]
    assert found.error is not None and found.error < 0.5


def test_another_processor_is_refused() -> None:
    elsewhere = next(name for name in MACHINES if name not in calibrate.machines())
    with pytest.raises(ToolError, match="lacks its instructions"):
        calibrate.calibrate(elsewhere)
