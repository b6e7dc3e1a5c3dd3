"""Part `check`: every op on the GPU, through PyTorch and JAX.

Three sources tell what is right: the tables of the tests of ops, made by hand and with other
libraries; the CPU kernels, which all the other tests are of; and a second run, for the same bits.
As a program, `python -m tools.gpu_check.check DEVICE HALF` with `KERAS_BACKEND` set, it checks one
half, `calls` or `cases`, of one door.
"""

import importlib
import os
import sys
import time
import traceback

import numpy as np

from tools.gpu_check import steps
from tools.gpu_check.steps import ROOT, Step, python


def run(machine):
    """Checks both doors, side by side."""
    halves = [
        Step(
            f"{backend}-{half}",
            python("check", machine.device, half),
            {"KERAS_BACKEND": backend},
        )
        for backend in ("torch", "jax")
        for half in HALVES
    ]
    return steps.run(halves, machine.device)


class Report:
    """Counts what is right, says what is wrong, and remembers the greatest differences."""

    def __init__(self):
        self.right, self.wrong, self.worst = 0, [], {}

    def expect(self, good, label):
        """Counts one comparison."""
        if good:
            self.right += 1
        else:
            self.wrong.append(label)
            if len(self.wrong) <= 40:
                print(f"WRONG {label}", flush=True)

    def compare(self, label, found, wanted, tolerance):
        """Integers equal, NaN and infinities at the same places, floats within the tolerance."""
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            self.expect(False, f"{label}: {found.dtype}{found.shape}, {wanted.dtype}{wanted.shape}")
        elif tolerance == 0 or not np.issubdtype(found.dtype, np.floating):
            floating = np.issubdtype(found.dtype, np.floating)
            self.expect(np.array_equal(found, wanted, equal_nan=floating), f"{label}: not equal")
        else:
            finite = np.isfinite(found) & np.isfinite(wanted)
            same = np.array_equal(found[~finite], wanted[~finite], equal_nan=True)
            greatest = np.max(np.abs(wanted[finite]), initial=0.0)
            difference = np.max(np.abs(found[finite] - wanted[finite]), initial=0.0)
            relative = float(difference / greatest) if difference else 0.0
            self.expect(
                same and relative <= tolerance,
                f"{label}: {relative:.2g} of the greatest, over {tolerance:.2g}"
                if same
                else f"{label}: NaN or infinity at other places",
            )
            kind = " ".join(label.split(",")[0].split()[:3]) + (
                " gradient" if "gradient" in label else ""
            )
            self.worst[kind] = max(self.worst.get(kind, 0.0), relative)


def check_door(device, half):
    """Checks one half through the door of the Keras backend; returns whether all is right."""
    import keras

    from kvision.ops import native
    from tools.gpu_check.doors import Jax, Torch

    door, report = (Jax if keras.backend.backend() == "jax" else Torch)(), Report()
    print(f"{door.name} on {device}; native library {native.build_info()}", flush=True)
    on_device = door.is_on(device, keras.ops.ones(1))
    report.expect(on_device, f"Keras puts tensors elsewhere than on {device}")
    HALVES[half](report, door, device)
    if report.worst:
        print("greatest differences, relative to the greatest value:")
    for kind, relative in sorted(report.worst.items()):
        print(f"  {kind:40} {relative:.1e}")
    print(f"{door.name}: {report.right} comparisons right, {len(report.wrong)} wrong", flush=True)
    return not report.wrong


def _check_calls(report, door, device):
    """Every call against the CPU."""
    from kvision.ops import native
    from tools.gpu_check.calls import all_calls

    start, checked = time.perf_counter(), set()
    for call in all_calls(small=device == "cpu"):
        if call.op not in checked:
            print(f"{call.op} from {time.perf_counter() - start:.0f} s", flush=True)
            checked.add(call.op)
        try:
            _check_call(report, door, call, device)
        except Exception as error:
            traceback.print_exc()
            report.expect(False, f"{call.name}: {error!r}")
            if "CUDA" in str(error):
                break  # nothing after it would run
    forward = {op["name"] for op in native.module().ops() if "gradient" not in op["name"]}
    report.expect(checked == forward, f"ops without a call: {sorted(forward - checked)}")


def _check_call(report, door, call, device):
    wanted, found, again = (door.run(call, where) for where in ("cpu", device, device))
    report.expect(found.keys() == wanted.keys(), f"{call.name}: other outputs")
    for name, value in wanted.items():
        label = f"{call.name}: {name}"
        limit = call.gradient_tolerance if "gradient" in name else call.tolerance
        if call.op in ("soft_nms", "matrix_nms") and limit and name == "output 0":
            continue  # which of two nearly equal scores comes first
        report.compare(label, found[name], value, limit)
        same = found[name].tobytes() == again[name].tobytes()
        report.expect(same, f"{label}: other bits the second time")
    if call.label.startswith(("float32, 20", "700 boxes", "2 x 100 x 7", "iou float32, 2 x 33")):
        for name, value in door.off_the_default_stream(call, device).items():
            report.expect(
                value.tobytes() == found[name].tobytes(), f"{call.name}: in a stream: {name}"
            )


def _check_cases(report, door, device):
    """The worked cases of the tests of ops, then compiled programs."""
    from kvision.ops import native
    from kvision.testing import op_values

    for path in sorted((ROOT / "tests" / "ops").glob("test_*.py")):
        for value in vars(importlib.import_module(f"tests.ops.{path.stem}")).values():
            contract = isinstance(value, type) and getattr(value, "contract", None)
            for label, case in contract.cases.items() if contract else ():
                try:
                    with native.implementation("native"):
                        op_values.check_case(contract, case)
                    report.expect(True, "")
                except Exception as error:
                    report.expect(False, f"{contract.name}, case {label}: {error}")
    try:
        _check_compiled(report, door, device)
    except Exception as error:
        traceback.print_exc()
        report.expect(False, f"compiled: {error!r}")


def _check_compiled(report, door, device):
    """The public functions in a compiled program: values and gradients as without."""
    import kvision
    from kvision.testing import vjp
    from tools.gpu_check.calls import boxes_in

    rng = np.random.default_rng(3)
    features = rng.normal(size=(2, 32, 40, 16)).astype("float32")
    boxes, scores = boxes_in(rng, (2, 50), 120), rng.random(50).astype("float32")
    on_device = [door.on(device, array) for array in (boxes, boxes[0], scores)]

    def pooled(features):
        return kvision.ops.roi_align(
            2 * features, on_device[0], output_size=7, spatial_scale=0.25, sampling_ratio=2
        )

    upstream = rng.normal(size=(2, 50, 7, 7, 16)).astype("float32")
    value, gradient = vjp(pooled, features, upstream)
    found, found_gradient = vjp(door.compiled(pooled), features, upstream)
    report.compare("roi_align compiled: value", found, value, 1e-6)
    report.compare("roi_align compiled: gradient", found_gradient, gradient, 1e-6)

    def kept(boxes, scores):
        return kvision.ops.nms(boxes, scores, iou_threshold=0.5, max_output_size=20)

    wanted, found = (f(*on_device[1:]) for f in (kept, door.compiled(kept)))
    leaves = zip(_leaves(wanted), _leaves(found), strict=True)
    for i, (one, other) in enumerate(leaves):
        report.compare(f"nms compiled: output {i}", door.array(other), door.array(one), 0)


def _leaves(outputs):
    import keras

    return keras.tree.flatten(outputs)


HALVES = {"calls": _check_calls, "cases": _check_cases}

if __name__ == "__main__":
    passed = check_door(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0 if passed else 1)  # without the frameworks' farewells
