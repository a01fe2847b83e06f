"""timm's image networks, narrow and shallow; most of them with activations in place, as timm builds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from pliant.probe import FreshLabels
from tests.extras.zoo.network import Net

from tests.extras.zoo.timm_alone import timm  # isort: skip
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.dla import DLA, DlaBasic
from timm.models.efficientnet import EfficientNet
from timm.models.ghostnet import GhostNet
from timm.models.levit import Levit
from timm.models.mambaout import MambaOut
from timm.models.mlp_mixer import MlpMixer
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet, RegNetCfg
from timm.models.res2net import Bottle2neck
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.rexnet import RexNet
from timm.models.vgg import VGG, ConvMlp

FOUR = (1, 1, 1, 1)
resnet = partial(ResNet, num_classes=5, stem_width=8)


def inverted(*stages: str) -> list[list[dict[str, object]]]:
    """Blocks of the MobileNet family, in timm's notation: repeats, kernel, stride, expansion, channels."""
    return decode_arch_def([[stage] for stage in stages])


def repvgg() -> nn.Module:
    blocks = tuple(ByoBlockCfg(type="rep", d=1, c=c, s=2, gs=0, br=0.0) for c in (8, 12))
    return ByobNet(ByoModelCfg(blocks=blocks, stem_type="rep", stem_chs=8), num_classes=5)


def vgg(**settings: Any) -> nn.Module:
    """With 32 units where timm has 4096."""
    model = VGG([8, "M", 12, "M", 16, "M"], num_classes=5, mlp_ratio=0.01, **settings)
    model.pre_logits = ConvMlp(16, 32, kernel_size=3, mlp_ratio=1.0, drop_rate=0.1, act_layer=nn.ReLU)
    model.head.fc = nn.Linear(32, 5)
    return model


def levit() -> nn.Module:
    return Levit(img_size=32, embed_dim=(16, 24), key_dim=8, num_heads=(2, 3), depth=(1, 1), num_classes=5)


RELU, RELU6, SILU, HARDSWISH = (partial(kind, inplace=True) for kind in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish))

IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: resnet(BasicBlock, FOUR, channels=(8, 8, 12, 16)),
    "resnet-bottleneck": lambda: resnet(Bottleneck, FOUR, channels=(4, 4, 6, 8)),
    "se-resnet": lambda: resnet(BasicBlock, FOUR, channels=(16, 16, 16, 24), block_args={"attn_layer": "se"}),
    "resnext": lambda: resnet(Bottleneck, FOUR, channels=(8, 8, 8, 8), cardinality=4, base_width=64),
    "res2net": lambda: resnet(Bottle2neck, FOUR, channels=(8, 8, 8, 8), base_width=64, block_args={"scale": 2}),
    "densenet": lambda: DenseNet(growth_rate=4, block_config=(2, 2), bn_size=2, num_classes=5),
    "vgg": vgg,
    "vgg-bn": lambda: vgg(norm_layer=nn.BatchNorm2d),
    "regnet": lambda: RegNet(RegNetCfg(w0=8, wa=14.0, wm=2.0, group_size=8, depth=6), num_classes=5),
    "mobilenetv2": lambda: EfficientNet(
        inverted("ds_r1_k3_s1_c8", "ir_r1_k3_s2_e3_c12", "ir_r2_k3_s2_e3_c16"), num_classes=5, num_features=32,
        stem_size=8, act_layer=RELU6,
    ),
    "mobilenetv3": lambda: MobileNetV3(
        inverted("ds_r1_k3_s2_e1_c8_se0.25_nre", "ir_r1_k5_s2_e3_c12_se0.25", "ir_r1_k3_s1_e3_c12", "cn_r1_k1_s1_c24"),
        num_classes=5, num_features=32, stem_size=8, act_layer=HARDSWISH,
    ),
    "mnasnet": lambda: EfficientNet(
        inverted("ds_r1_k3_s1_c8", "ir_r1_k5_s2_e3_c12_se0.25"), num_classes=5, num_features=32, stem_size=8,
        act_layer=RELU,
    ),
    "efficientnet": lambda: EfficientNet(
        inverted("ds_r1_k3_s1_c8_se0.25", "ir_r1_k3_s2_e3_c12_se0.25", "ir_r2_k5_s2_e3_c16_se0.25"), num_classes=5,
        num_features=32, stem_size=8, act_layer=SILU,
    ),
    "lcnet": lambda: MobileNetV3(
        inverted("dsa_r1_k3_s1_c8", "dsa_r2_k3_s2_c16", "dsa_r1_k5_s2_c24_se0.25"), num_classes=5, num_features=32,
        stem_size=8, act_layer=HARDSWISH,
    ),
    "ghostnet": lambda: GhostNet([[[3, 16, 16, 0, 1]], [[3, 48, 24, 0.25, 2]]], width=0.5, num_classes=5),
    "rexnet": lambda: RexNet(initial_chs=8, final_chs=16, depth_mult=0.2, num_classes=5),
    "repvgg": repvgg,
    "dla": lambda: DLA((1, 1, 1, 2, 1, 1), (8, 8, 8, 12, 12, 16), block=DlaBasic, num_classes=5),
    "nfnet": lambda: timm.create_model("test_nfnet", num_classes=5),
}  # fmt: skip
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "convnext": lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=5),
    "levit": levit,
    "mambaout": lambda: MambaOut(depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=5),
    "mlp-mixer": lambda: MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=16, num_classes=5),
}
SCALED_ONLY = {"densenet"}  # the first norm of a block scales what left the stem: no weights feed that site
LARGER = {"mambaout": 64, "convnext": 64}


def images(size: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(6, 3, size, size)


NETWORKS = {
    name: Net(make, images(LARGER.get(name, 32)), whole=name in IN_PLACE.keys() - SCALED_ONLY, probe=FreshLabels(5))
    for name, make in {**IN_PLACE, **OTHERS}.items()
}
