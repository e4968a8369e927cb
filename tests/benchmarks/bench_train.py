"""Training against a bare loop, loading data against what training takes, checkpoints, and starting.

    python -m tests.benchmarks.bench_train [--steps 100] [--rounds 5]

With the demonstration's images and parameters, in a project of its own; what is compared runs in turns.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import Models.train  # noqa: F401  # which tells torch, before it is imported, how to wait
from tests.benchmarks.measuring import Figure, cost, python
from tests.template.conftest import copy_checkout, run_in, succeeded

STEPS, ROUNDS, BATCH = 100, 5, 16


def learning(curated: Path, threads: int = 2) -> tuple[Any, Any, Any]:
    """Samples, options and a training that has done nothing, as params.yaml has it."""
    import torch

    from Datasets.format.curated import Curated
    from Models import e001_center_detector as e001
    from Models.learning.data_loading import Samples
    from Models.learning.training import Options, start

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    samples = Samples(Curated(curated), "train", 96)
    options = Options(96, 12, BATCH, learning_rate=6e-3, threads=threads, device="cpu", precision="fp32")
    return samples, options, start(e001.build(classes=10), options, 10_000)


def order(samples: Any, steps: int) -> list[list[int]]:
    """The first steps' images."""
    from Models.learning.data_loading import epoch_order

    parts = (part for epoch in range(steps) for part in epoch_order(len(samples), BATCH, 0, epoch))
    return [part for part, _ in zip(parts, range(steps), strict=False)]


def shared(curated: Path, steps: int, checkpoint: Path) -> float:
    """Images a second of the shared loop: one epoch of `steps` steps, with its lines, sums and checkpoints."""
    from Models.learning.training import train

    samples, options, state = learning(curated)
    samples.cache()
    seen: list[float] = []
    options = options.__class__(**{**vars(options), "epochs": max(1, steps * BATCH // len(samples))})
    train(state.model, samples, options, lambda _: {}, checkpoint, lambda _: seen.append(time.perf_counter()))
    checkpoint.unlink(missing_ok=True)
    return (len(seen) - 1) * len(samples) / (seen[-1] - seen[0])


def bare(curated: Path, steps: int) -> float:
    """Images a second of what a PyTorch tutorial would write, with the same model, data, augmentation and optimizer."""
    import torch

    from Models.learning.augmentation import augment
    from Models.learning.options import Options

    samples, options, state = learning(curated)
    samples.cache()
    epochs = max(1, steps * BATCH // len(samples))
    parts = [part for part in order(samples, epochs * -(-len(samples) // BATCH))]
    begun = time.perf_counter()
    for step, batch in enumerate(samples.batches(parts)):
        state.model.train()
        batch = augment(batch, Options(zoom=options.zoom), [0, step])
        loss = sum(state.model.loss(batch.images, batch.targets).values())
        state.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), options.clip)
        state.optimizer.step()
        state.schedule.step()
        loss.item()
    return sum(map(len, parts)) / (time.perf_counter() - begun)


def varied(curated: Path, steps: int, cached: bool) -> float:
    """Images a second of our batches with targets, varied, from the shards or from memory."""
    from Models.learning.augmentation import augment
    from Models.learning.options import Options

    samples, _, _ = learning(curated)
    if cached:
        samples.cache()
    parts, begun = order(samples, steps), time.perf_counter()
    for step, batch in enumerate(samples.batches(parts)):
        augment(batch, Options(zoom=0.25), [0, step])
    return sum(map(len, parts)) / (time.perf_counter() - begun)


def stacked(squares: Callable[[list[int]], list[Any]], parts: list[list[int]]) -> float:
    """Images a second of batches that are made of letterboxed images and nothing else, by as many threads as ours."""
    import numpy as np
    import torch

    from Models.learning.data_loading import ahead

    def batch(part: list[int]) -> Any:
        return torch.from_numpy(np.stack([square.pixels for square in squares(part)])).permute(0, 3, 1, 2)

    begun = time.perf_counter()
    read = sum(len(images) for images in ahead(batch, parts))
    return read / (time.perf_counter() - begun)


def shards(curated: Path, steps: int) -> float:
    """Images a second from the shards, decoded and letterboxed."""
    samples, _, _ = learning(curated)
    return stacked(lambda part: [samples.letterbox(index) for index in part], order(samples, steps))


def hugging_face(curated: Path, steps: int) -> float:
    """The same by Hugging Face datasets, once it has copied the shards into its cache."""
    import datasets
    import numpy as np

    from Datasets.format.images import letterbox

    datasets.disable_progress_bars()
    samples, options, _ = learning(curated)
    with tempfile.TemporaryDirectory() as cache:
        files = sorted(map(str, curated.glob("train-*.parquet")))
        rows = datasets.Dataset.from_parquet(files, cache_dir=cache).cast_column("image", datasets.Image())

        def squares(part: list[int]) -> list[Any]:
            return [letterbox(np.asarray(image.convert("RGB")), options.size) for image in rows[part]["image"]]

        return stacked(squares, order(samples, steps))


def in_turns(rounds: int, **measured: Callable[[], float]) -> dict[str, list[float]]:
    """What each gives, in turns, so that a change of the machine's speed meets all alike."""
    found: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(rounds):
        for name in list(measured) if turn % 2 else list(measured)[::-1]:
            found[name].append(measured[name]())
    return found


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios of neighbours."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def figures(steps: int = STEPS, rounds: int = ROUNDS) -> Iterator[Figure]:
    """Measure all."""
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary, "project")
        project.mkdir()
        copy_checkout(project, lambda params: None)
        succeeded(run_in(project, "dvc", "repro", "curate", timeout=600))
        curated = project / "Datasets/curated"
        loop = in_turns(
            rounds,
            ours=partial(shared, curated, steps, Path(temporary, "checkpoint.pt")),
            bare=partial(bare, curated, steps),
        )
        yield Figure(
            "the training loop, images a second",
            "a bare PyTorch loop with the same model, data and augmentation",
            f"{ratio(loop['ours'], loop['bare']):.3f} of its rate",
            "0.97",
            f"{statistics.median(loop['ours']):.0f} against {statistics.median(loop['bare']):.0f} images a second",
        )
        yield from _loading(curated, steps, rounds, statistics.median(loop["ours"]))
        yield _checkpoints(curated, Path(temporary, "checkpoint.pt"))
    yield _starting(rounds)


def _loading(curated: Path, steps: int, rounds: int, consumed: float) -> Iterator[Figure]:
    found = in_turns(
        rounds,
        shards=partial(varied, curated, steps, False),
        memory=partial(varied, curated, steps, True),
        read=partial(shards, curated, steps),
        theirs=partial(hugging_face, curated, steps),
    )
    rate = {name: statistics.median(values) for name, values in found.items()}
    name = "batches from the Parquet shards: decoded, letterboxed"
    yield Figure(
        f"{name}, with targets, varied",
        "what training takes",
        f"{rate['shards'] / consumed:.1f} times as many",
        "",
        f"{rate['shards']:.0f} images a second",
    )
    yield Figure(
        name,
        "Hugging Face datasets: the same shards, order, letterboxes and threads, once they are in its cache",
        f"{ratio(found['read'], found['theirs']):.2f} times as fast",
        "",
        f"{rate['read']:.0f} against {rate['theirs']:.0f} images a second",
    )
    yield Figure(
        f"{name}, with targets, varied",
        "the same from images in memory, as training holds them below 1 GiB",
        f"{ratio(found['shards'], found['memory']):.2f} of its rate",
        "",
        f"{rate['shards']:.0f} against {rate['memory']:.0f} images a second",
    )


def _checkpoints(curated: Path, checkpoint: Path) -> Figure:
    from Models.learning.training import CHECKPOINT_SHARE, save, update

    samples, options, state = learning(curated)
    samples.cache()
    steps, saves = [], []
    for number, batch in enumerate(samples.batches(order(samples, 60))):
        begun = time.perf_counter()
        update(state, batch, options)
        steps.append(time.perf_counter() - begun)
        if number % 3 == 2:
            begun = time.perf_counter()
            save(state, checkpoint)
            saves.append(time.perf_counter() - begun)
    step, each = statistics.median(steps), statistics.median(saves)
    return Figure(
        f"a checkpoint, written so often that they take {100 * CHECKPOINT_SHARE:.0f} % of the time",
        "a step",
        f"{each / step:.1f} of its time, so each {each / step / CHECKPOINT_SHARE:.0f} steps",
        "",
        f"{1000 * each:.0f} ms and {checkpoint.stat().st_size / 1e6:.1f} MB, a step {1000 * step:.0f} ms",
    )


def _starting(rounds: int) -> Figure:
    found = [cost(python("Models.train", "--help")) for _ in range(rounds)]
    seconds = statistics.median(each.seconds for each in found)
    own = statistics.median(each.processor for each in found)
    return Figure("python -m Models.train --help", "", f"{seconds:.2f} s", "1 s", f"{own:.2f} s of processor time")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure training.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    for figure in figures(options.steps, options.rounds):
        print(figure, flush=True)


if __name__ == "__main__":
    main()
