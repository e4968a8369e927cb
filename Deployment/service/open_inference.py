"""The Open Inference Protocol over REST, which KServe, Triton and others speak.

https://github.com/kserve/open-inference-protocol describes it, so the service's own document does not. One input of
datatype BYTES, the image files: in JSON as base64, or raw behind the JSON, as the extension `binary_tensor_data` of
Triton's client sends them. One output `predictions` of BYTES: for each image the JSON that /predict answers. The
request's parameter `threshold` is the least score.
"""

import math
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from Deployment.service.uploads import named, read_body
from Deployment.service.worker import Task
from Deployment.service.workers import Workers

Answering = Callable[[Request, Task], Awaitable[Response]]
HEADER = "inference-header-content-length"  # the bytes of JSON before the raw ones


class Parameters(msgspec.Struct):
    """Of a request, those that are used here."""

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Raw(msgspec.Struct):
    """Of an input: its bytes behind the JSON."""

    binary_data_size: Annotated[int, msgspec.Meta(ge=0)] = 0


class Input(msgspec.Struct):
    """A tensor that is sent."""

    datatype: str
    shape: Annotated[list[int], msgspec.Meta(max_length=8)]  # the product of very many would take hours
    parameters: Raw = msgspec.field(default_factory=Raw)
    data: list[str] | None = None


class Inference(msgspec.Struct):
    """A request."""

    inputs: Annotated[list[Input], msgspec.Meta(min_length=1, max_length=1)]
    id: str = ""
    parameters: Parameters = msgspec.field(default_factory=Parameters)


async def read_inference(request: Request, most: int) -> Task:
    """The task of a request. Raises HTTPException 400 for anything that the protocol or this model does not allow."""
    content, header = await read_body(request), request.headers.get(HEADER)
    try:
        length = len(content) if header is None else int(header)
        wanted = msgspec.json.decode(content[:length], type=Inference)
        tensor = wanted.inputs[0]
        raw = _elements(content[length : length + tensor.parameters.binary_data_size])
        elements = list(islice(raw, most + 1)) if tensor.data is None else tensor.data
    except (ValueError, struct.error) as error:
        raise HTTPException(400, f"no request of the Open Inference Protocol: {error}") from error
    if tensor.datatype != "BYTES" or math.prod(tensor.shape) != len(elements) or not 0 < len(elements) <= most:
        number = f"more than {most}" if len(elements) > most else len(elements)
        sent = f"{tensor.datatype} of shape {tensor.shape} with {number} elements"
        raise HTTPException(400, f"the input is {sent}; send BYTES of shape [N] with N image files, 1 to {most}")
    return Task(named(elements), wanted.parameters.threshold, "inference", id=wanted.id)


def _elements(raw: bytes) -> Iterator[bytes]:
    """The elements of a raw BYTES tensor: before each its length, 4 bytes, the lowest first. Raises ValueError."""
    place = 0
    while place < len(raw):
        (size,) = struct.unpack_from("<I", raw, place)
        place += 4 + size
        if place > len(raw):
            raise ValueError("the raw data is cut off")
        yield raw[place - size : place]


def add_open_inference(router: APIRouter, served: str, workers: Workers, answer: Answering, most: int) -> None:
    """Add the endpoints, but those for health, which are open. served: the experiment. most: images of a request."""

    async def check(name: str) -> None:
        if name != served:
            raise HTTPException(404, f"there is no model {name!r} here, only {served!r}")

    model = APIRouter(prefix="/v2/models/{name}", dependencies=[Depends(check)], include_in_schema=False)

    @router.get("/v2", include_in_schema=False)
    async def server() -> dict[str, Any]:
        return {"name": "fourfold", "version": "2", "extensions": ["binary_tensor_data"]}

    @model.get("")
    async def metadata() -> dict[str, Any]:
        images, predictions = ({"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("images", "predictions"))
        return {"name": served, "platform": "onnx_onnxv1", "inputs": [images], "outputs": [predictions]}

    @model.get("/ready")
    async def model_ready() -> dict[str, Any]:
        workers.check()
        return {"name": served, "ready": True}

    @model.post("/infer")
    async def infer(request: Request) -> Response:
        return await answer(request, await read_inference(request, most))

    router.include_router(model)
