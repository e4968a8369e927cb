"""The Open Inference Protocol over REST, which KServe, Triton and others speak.

https://github.com/kserve/open-inference-protocol describes it, so the service's own document does not. One input of
datatype BYTES, the image files: in JSON as base64, or raw behind the JSON, as the extension `binary_tensor_data` of
Triton's client sends them. One output `predictions` of BYTES: for each image the JSON that /predict answers. The
request's parameter `threshold` is the least score.
"""

import asyncio
import math
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from Deployment.service.artifact import Artifact
from Deployment.service.uploads import JSON, Files, Uploads, named
from Deployment.service.worker import Answer, Limits, Task
from Deployment.service.workers import Workers

Run = Callable[[Task, float], Awaitable[Answer]]  # answers a task until a deadline, by the event loop's clock
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


def read_request(content: bytes, header: str | None, most: int) -> tuple[Inference, Files]:
    """A request and the image files in it, named by their number. header: that of HEADER.

    Raises HTTPException 400 for anything that the protocol or this model does not allow.
    """
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
        told = f"{tensor.datatype} of shape {tensor.shape} with {number} elements"
        raise HTTPException(400, f"the input is {told}; send BYTES of shape [N] with N image files, 1 to {most}")
    return wanted, named(elements)


def _elements(raw: bytes) -> Iterator[bytes]:
    """The elements of a raw BYTES tensor: before each its length, 4 bytes, the lowest first. Raises ValueError."""
    place = 0
    while place < len(raw):
        (size,) = struct.unpack_from("<I", raw, place)
        place += 4 + size
        if place > len(raw):
            raise ValueError("the raw data is cut off")
        yield raw[place - size : place]


def add_open_inference(
    router: APIRouter, artifact: Artifact, workers: Workers, limits: Limits, uploads: Uploads, run: Run
) -> None:
    """Add the endpoints, but those for health."""
    served = artifact.manifest["experiment"]

    async def check(name: str) -> None:
        if name != served:
            raise HTTPException(404, f"there is no model {name!r} here, only {served!r}")

    hidden = APIRouter(include_in_schema=False)
    model = APIRouter(prefix="/v2/models/{name}", dependencies=[Depends(check)])

    @hidden.get("/v2")
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
        deadline = asyncio.get_running_loop().time() + limits.seconds
        async with uploads.files(request, 1, deadline) as files:
            wanted, images = read_request(files[0][1], request.headers.get(HEADER), limits.max_images)
            found = await run(Task(images, True, wanted.parameters.threshold, False), deadline)
        texts = []
        for row in msgspec.json.decode(found.content)["answers"]:
            number = row.pop("image")
            if "error" in row:
                raise HTTPException(422, f"image {number}: {row['error']}")
            texts.append(msgspec.json.encode(row).decode())
        output = {"name": "predictions", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
        answer = {"model_name": served, "id": wanted.id, "outputs": [output]}
        return Response(msgspec.json.encode(answer), media_type=JSON)

    hidden.include_router(model)
    router.include_router(hidden)


def add_health(router: APIRouter, workers: Workers) -> None:
    """Add the endpoints for health."""

    @router.get("/v2/health/live", include_in_schema=False)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/v2/health/ready", include_in_schema=False)
    async def ready() -> dict[str, bool]:
        workers.check()
        return {"ready": True}
