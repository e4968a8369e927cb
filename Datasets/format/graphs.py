"""Opens ONNX graphs in onnxruntime, on the device that is wanted or that there is."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Any

from Datasets.tools.errors import UserError, one_line


class Device(StrEnum):
    """Where a graph computes; auto: on a GPU, where onnxruntime can."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


PROVIDERS: dict[Device, tuple[str, dict[str, Any]]] = {
    Device.cpu: ("CPUExecutionProvider", {}),
    Device.cuda: ("CUDAExecutionProvider", {"use_tf32": "0"}),  # whose 10 bits would not agree with evaluation
    Device.tensorrt: ("TensorrtExecutionProvider", {}),
}


def open_graph(path: Path, device: Device = Device.cpu, threads: int = 0) -> Any:
    """An onnxruntime.InferenceSession. threads: for the operators of one image; 0: one a core.

    Raises UserError for a graph that cannot be loaded, and for a device that onnxruntime lacks or could not start: it
    would take the CPU in silence. auto takes it then, which `device_of` tells.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # its import alone reports to its maker, from version 1.29 on
    import onnxruntime

    wanted = [Device.cuda, Device.cpu] if device is Device.auto else [device, Device.cpu]
    there = onnxruntime.get_available_providers()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as well
    providers = [PROVIDERS[each] for each in dict.fromkeys(wanted) if PROVIDERS[each][0] in there]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no other base class
        reason = one_line(error)
        raise UserError(f"{path}: onnxruntime {onnxruntime.__version__} cannot load it: {reason}") from error
    if device not in (Device.auto, taken := device_of(session)):
        has = "has it but could not start it" if PROVIDERS[device][0] in there else f"has {', '.join(there)}"
        raise UserError(
            f"device {device}: onnxruntime {onnxruntime.__version__} {has}, and would compute on {taken}; "
            "install onnxruntime-gpu in place of onnxruntime, and the driver; or take auto"
        )
    return session


def device_of(session: Any) -> Device:
    """The device that a session computes on."""
    first = session.get_providers()[0]
    return next(device for device, (provider, _) in PROVIDERS.items() if provider == first)
