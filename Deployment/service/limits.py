"""What one request may cost the service, and how many it takes at once."""

from dataclasses import dataclass

from Datasets.format.images import FORMATS


@dataclass(frozen=True)
class Limits:
    """The service's limits, each an option of Deployment/serve.py.

    body: bytes; of a batch all together. pixels: of an image. images: of a batch. formats: of image files, Pillow's
    names. seconds: from the request's first line to its answer. parallel: images worked on at once. waiting: requests
    that may wait for that. memory: bytes of all bodies held at once.
    """

    body: int = 20_000_000
    pixels: int = 50_000_000
    images: int = 64
    formats: tuple[str, ...] = FORMATS
    seconds: int = 30
    parallel: int = 1
    waiting: int = 64
    memory: int = 400_000_000
