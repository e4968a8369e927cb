"""Graphs of 8 bits: what they must keep of the figures, and that what is served is what was measured."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import helper

from Datasets.format.curated import Curated
from Datasets.format.graphs import Device
from Datasets.format.records import read_predictions
from Datasets.tools.errors import UserError
from Deployment.service.artifact import Predictor, load
from Models.exporting.graphs import Precision, add_graph, decoding, held_to, write_int8
from Models.exporting.manifest import file_hashes
from Models.learning.box_metrics import Measured
from Models.learning.data_loading import Samples
from tests.template.Models.shape_scenes import refused


@pytest.fixture(scope="module")
def exported(outputs, shapes, tmp_path_factory):
    """The export, made to serve int8."""
    out = shutil.copytree(outputs / "export", tmp_path_factory.mktemp("int8") / "e001")
    manifest = {**json.loads((out / "manifest.json").read_text()), "graph": Precision.int8.file}
    images = sorted((out / "sample").glob("*.png"))
    add_graph(out, Precision.int8, images, Curated(shapes), manifest, 1, Device.cpu)
    manifest["files"] = file_hashes(out)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def test_what_is_served_is_what_was_measured(exported):
    artifact = load(exported)
    assert artifact.graph == "model.int8.onnx" and "model.onnx" not in artifact.served
    predictor = Predictor(artifact)
    for data, expected in artifact.samples().values():
        assert predictor(data) == expected
    manifest = json.loads((exported / "manifest.json").read_text())
    kept = read_predictions(exported / "predictions.parquet")
    assert len(kept) == manifest["metrics"]["images"]
    assert manifest["metrics"] == manifest["precisions"]["int8"]
    figures = {precision: metrics["mAP"] for precision, metrics in manifest["precisions"].items()}
    assert figures["int8"] == pytest.approx(figures["fp32"], abs=0.1)
    assert figures["fp16"] == pytest.approx(figures["fp32"], abs=0.01)
    sizes = {precision: (exported / Precision(precision).file).stat().st_size for precision in figures}
    assert sizes["int8"] < sizes["fp16"] < 0.7 * sizes["fp32"]


def test_the_backbone_is_of_8_bits_and_what_decodes_is_not(exported):
    graph, before = (onnx.load(exported / name).graph for name in ("model.int8.onnx", "model.onnx"))
    made = {name: node.op_type for node in graph.node for name in node.output}
    weights = {node.name: made.get(node.input[1]) for node in graph.node if node.op_type == "Conv"}
    heads = weights.keys() & set(decoding(before))
    assert len(heads) == 3 and {weights[name] for name in heads} == {None}
    assert {weights[name] for name in weights.keys() - heads} == {"DequantizeLinear"}
    assert (exported / "model.int8.onnx").stat().st_size < 0.5 * (exported / "model.onnx").stat().st_size


def test_a_graph_that_loses_too_much_is_refused_with_the_class_that_lost_most():
    metrics = {"mAP": 0.7, "MAE": 0.1, "AP": {"disc": 0.8, "square": 0.6}}
    measured = Measured({"mAP": 0.66, "MAE": 0.4, "AP": {"disc": 0.79, "square": 0.53}}, ("mAP", "MAE"), [], [], [])
    assert held_to(0.05, Path("model.int8.onnx"), metrics, measured)["mAP"] == 0.66
    with pytest.raises(UserError, match=r"mAP is 0\.660, the model's 0\.700, .*AP of square lost most, 0\.070"):
        held_to(0.01, Path("model.int8.onnx"), metrics, measured)


def test_a_figure_that_no_class_explains_names_none():
    measured = Measured({"top1": 0.5, "AP": {"disc": 0.9}}, ("top1",), [], [], [])
    with pytest.raises(
        UserError, match="top1 is 0.500, the model's 0.700, 0.2 less, where max_loss is 0.01; allow more"
    ):
        held_to(0.01, Path("model.int8.onnx"), {"top1": 0.7, "AP": {"disc": 0.8}}, measured)


def test_a_graph_without_a_convolution_is_no_graph_of_8_bits(shapes, tmp_path):
    given, scores = (helper.make_tensor_value_info(*each) for each in (("images", 2, None), ("scores", 1, None)))
    nodes = [helper.make_node("Cast", ["images"], ["cast"], to=1), helper.make_node("ReduceMean", ["cast"], ["scores"])]
    graph = helper.make_graph(nodes, "mean", [given], [scores])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="convolutions, of which the graph has none"):
        write_int8(tmp_path / "model.onnx", Samples(Curated(shapes), "train", 48), tmp_path / "int8.onnx")


def test_a_precision_to_serve_must_be_made(outputs, shapes, tmp_path):
    words = ["--experiment", "e001", "--curated", shapes, "--trained", outputs / "train", "--out", tmp_path / "out"]
    assert "precisions" in refused("export", *words, "--serve", "int8")
    assert not (tmp_path / "out").exists()
