"""What a rule of the TFLite door is: an operator's operands in, what its outputs are in the drawing."""

from collections.abc import Callable

from karui.graph.doors.tflite_file import Operator
from karui.graph.doors.tflite_scene import Held, Scene

Rule = Callable[[Scene, Operator], Held | tuple[Held, ...]]
