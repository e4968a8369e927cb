"""e901: RT-DETRv2, a detector of Hugging Face transformers; `init` its weights trained on COCO, which are Apache-2.0.

A convolutional backbone, an encoder of its three last maps, and a decoder that refines the best of their cells to
detections, one an object, so that no non-maximum suppression is needed (Lv et al., 2024, arXiv:2407.17140).
Models/README.md has the lines that bring the weights. Their images are scaled to 640 x 640 pixels.
"""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import apply_renamings

TASK = "boxes"  # the record's field that this model learns
REQUIRES = ["transformers==5.24.0"]
SIZE_MULTIPLE = 32  # of its coarsest map's cells
BACKBONES: dict[str, dict[str, Any]] = {  # ResNet-D, by the names that the weights have
    "tiny": {"layer_type": "basic", "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "embedding_size": 16},
    "r18vd": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "r34vd": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3]},
    "r50vd": {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
    "r101vd": {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 23, 3]},
}
HEADS: dict[str, dict[str, Any]] = {  # what differs from the library's defaults in encoder and decoder
    "tiny": {"d_model": 32, "encoder_hidden_dim": 32, "decoder_ffn_dim": 64, "decoder_layers": 2},
    "r18vd": {"hidden_expansion": 0.5, "decoder_layers": 3},
    "r34vd": {"hidden_expansion": 0.5, "decoder_layers": 4},
    "r50vd": {},
    "r101vd": {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048},
}


def build(classes: int, backbone: str = "r18vd", queries: int = 300, denoising: int = 100) -> nn.Module:
    """A detector of `classes` classes with random weights, which learn little: it is made to begin with others'.

    backbone: a name in BACKBONES. queries: how many boxes `forward` returns for each image; a square of S pixels has
    21 * (S / 32)**2 cells, and may have no more queries. denoising: queries that begin with disturbed true boxes, in
    training only (Zhang et al., DINO, 2022, arXiv:2203.03605).
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone ({backbone}) must be one of: {', '.join(BACKBONES)}")
    if min(classes, queries) < 1 or denoising < 0:
        raise ValueError(f"classes ({classes}) and queries ({queries}) must be 1 or more, denoising ({denoising}) 0")
    body = RTDetrResNetConfig(**BACKBONES[backbone], out_indices=[2, 3, 4])
    width = HEADS[backbone].get("encoder_hidden_dim", 256)
    config = RTDetrV2Config(
        backbone_config=body,
        encoder_in_channels=body.hidden_sizes[1:],
        decoder_in_channels=[width] * 3,
        num_labels=classes,
        num_queries=queries,
        num_denoising=denoising,
        **HEADS[backbone],
    )
    return Detector(config)


class Detector(nn.Module):
    """The library's network, with normalisation and decoding (`forward`) and its training objective (`loss`)."""

    def __init__(self, config: RTDetrV2Config) -> None:
        super().__init__()
        self.net = RTDetrV2ForObjectDetection(config)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Detect. images: uint8 [N, 3, H, W], RGB, H and W multiples of 32.

        boxes: float32 [N, K, 4], x1, y1, x2, y2 in pixels of the input; scores: float32 [N, K] in 0 to 1, descending;
        classes: int64 [N, K]. K is `queries`, each of which gives a box of its likeliest class.
        """
        height, width = images.shape[2:]
        cells, queries = sum((height // each) * (width // each) for each in (8, 16, 32)), self.net.config.num_queries
        if not torch.compiler.is_exporting() and cells < queries:
            raise ValueError(f"images of {width} x {height} pixels have {cells} cells, and queries is {queries}")
        found = self.net(images.float() / 255)
        scores, classes = found.logits.float().sigmoid().max(2)
        scores, order = scores.sort(descending=True)
        x, y, w, h = found.pred_boxes.float().unbind(2)
        sides = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        boxes = torch.stack(sides, 2).gather(1, order[..., None].expand(-1, -1, 4))
        return {"boxes": boxes, "scores": scores, "classes": classes.gather(1, order)}

    def loss(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the library's loss, summed over the decoder's layers, the encoder and the denoising.

        images: uint8 [N, 3, H, W]. targets: boxes float32 [N, M, 4] (x1, y1, x2, y2 in pixels of the input), classes
        int64 [N, M], -1 where an image has fewer than M; crowd bool [N, M]. Crowd boxes are left out.
        """
        labels = objects(targets, *images.shape[2:])
        found = self.net.model(images.float() / 255, labels=labels)
        logits, boxes = found.intermediate_logits.float(), found.intermediate_reference_points.float()
        _, parts, _ = self.net.loss_function(  # float(): under bf16 the network gives bfloat16
            logits[:, -1],
            labels,
            images.device,
            boxes[:, -1],
            self.net.config,
            outputs_class=logits,
            outputs_coord=boxes,
            enc_topk_logits=found.enc_topk_logits.float(),
            enc_topk_bboxes=found.enc_topk_bboxes.float(),
            denoising_meta_values=found.denoising_meta_values,
        )
        kinds = {"class": "loss_vfl", "box": "loss_bbox", "giou": "loss_giou"}
        each = {kind: [parts[name] for name in parts if name.startswith(begin)] for kind, begin in kinds.items()}
        return {kind: torch.stack(values).sum() for kind, values in each.items()}


def objects(targets: dict[str, Tensor], height: int, width: int) -> list[dict[str, Tensor]]:
    """The objects of each image as the library takes them: boxes are centre and size, as shares of the image's."""
    boxes = targets["boxes"] / targets["boxes"].new_tensor([width, height, width, height])
    low, high = boxes[..., :2], boxes[..., 2:]
    boxes, kept = torch.cat([(low + high) / 2, high - low], 2), (targets["classes"] >= 0) & ~targets["crowd"]
    images = zip(targets["classes"], boxes, kept, strict=True)
    return [{"class_labels": classes[real], "boxes": each[real]} for classes, each, real in images]


def load_initial(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, str | None]:
    """Copy weights named as the library saves them; return the model's tensor that each became, or None.

    What depends on the number of classes begins anew where it is another.
    """
    renamings, mine = get_checkpoint_conversion_mapping("rt_detr_v2"), model.state_dict()
    became: dict[str, str | None] = {}
    for name, values in tensors.items():
        target = f"net.{apply_renamings(name, renamings)}"
        became[name] = target if target in mine and mine[target].shape == values.shape else None
    model.load_state_dict({target: tensors[name] for name, target in became.items() if target}, strict=False)
    return became


def parameter_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """AdamW's groups, as in the paper: the backbone learns at a tenth of the rate, norms and biases do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("net.model.backbone."), parameter.dim() > 1), []).append(parameter)
    return [
        {"params": each, "lr": learning_rate * (0.1 if body else 1), "weight_decay": 1e-4 if decays else 0.0}
        for (body, decays), each in groups.items()
    ]


def exportable(model: nn.Module) -> nn.Module:
    """The model itself, but without the library's checks of its own shapes, which a graph cannot have."""
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"
    return model
