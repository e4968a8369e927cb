"""A running service as a function of CVAT. It needs cvat-cli and cvat-sdk[masks], in any environment, and nothing else.

    cvat-cli task auto-annotate TASK --function-file Deployment/cvat_function.py

FOURFOLD_SERVICE: the service's address, by default http://127.0.0.1:8000. FOURFOLD_API_KEY: its key, if it has one.
Boxes become rectangles, masks one mask a class; what labels and counts name becomes tags.
"""

import base64
import io
import json
import os
from typing import Any

import cvat_sdk.auto_annotation as cvat
import numpy as np
import urllib3
from cvat_sdk.masks import encode_mask
from PIL import Image, ImageOps

SERVICE = os.environ.get("FOURFOLD_SERVICE", "http://127.0.0.1:8000").rstrip("/")
KEY = os.environ.get("FOURFOLD_API_KEY")
LOSSLESS = 5_000_000  # pixels of an image to send as PNG; a larger one is sent as JPEG, as requests have a limit


def ask(method: str, path: str, body: bytes | None = None) -> Any:
    """The service's answer. Raises HTTPError, which cvat-cli reports in one line."""
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    answer = urllib3.request(method, SERVICE + path, body=body, headers=headers, retries=False, timeout=60)
    if answer.status != 200:
        raise urllib3.exceptions.HTTPError(f"{SERVICE}{path}: {answer.status}: {answer.data.decode()[:300]}")
    return json.loads(answer.data)


CLASSES: list[str] = ask("GET", "/manifest")["classes"]
spec = cvat.DetectionFunctionSpec(labels=[cvat.label_spec(name, number) for number, name in enumerate(CLASSES)])


def detect(context: Any, image: Image.Image) -> list[Any]:
    """CVAT's shapes, or tags, for what the model finds in an image."""
    file, upright = io.BytesIO(), ImageOps.exif_transpose(image).convert("RGB")
    upright.save(file, "PNG" if upright.width * upright.height <= LOSSLESS else "JPEG", quality=95)
    threshold = "" if context.conf_threshold is None else f"?threshold={context.conf_threshold}"
    found = ask("POST", f"/predict{threshold}", file.getvalue())
    if "boxes" in found:
        corners = ((CLASSES.index(b["name"]), [b["x1"], b["y1"], b["x2"], b["y2"]]) for b in found["boxes"])
        return [cvat.rectangle(number, points) for number, points in corners]
    if "mask" in found:
        values = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
        return [cvat.mask(int(v) - 1, encode_mask(values == v)) for v in np.unique(values) if v]
    return [cvat.tag(CLASSES.index(name)) for name in found["labels"]]
