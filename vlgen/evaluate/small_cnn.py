"""The small network that learns from pixels: how far images teach without any features learned elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlgen.precision import quick
from vlgen.tensors import generator

STEPS, BATCH, WIDTH, RATE = 300, 32, 32, 2e-3


def learn(
    pictures: Tensor, labels: Tensor, *, classes: int, seed: int, steps: int = STEPS, width: int = WIDTH
) -> nn.Module:
    """Five convolutions, their mean over the picture and one linear layer, trained for a fixed number of steps.

    pictures  (N, 1, H, W) in [0, 1]
    labels    (N,)   0 ... classes - 1, each at least once
    steps     of 32 pictures each, whatever N; the classes take turns, and a picture of the class is drawn by seed

    AdamW, linear warm-up and half a cosine down to 0; cross-entropy; no flips, no crops. bfloat16 where the machine
    computes it quickly. The same seed gives the same network on one machine with the same threads; the caller's random
    state is left alone.
    """
    if not len(pictures) == len(labels) >= classes or len(set(labels.tolist())) < classes:
        raise ValueError(
            f"{len(pictures)} pictures and {len(labels)} labels of {len(set(labels.tolist()))} classes: give one label "
            f"to each, and at least one picture of each of {classes} classes"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _network(classes, width, seed, device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05, fused=True)
    members = [(labels == one).nonzero()[:, 0].tolist() for one in range(classes)]
    for step in range(steps):
        g = generator("small CNN", seed, "batch", step)
        draws = torch.rand(BATCH, generator=g, dtype=torch.float64).tolist()
        turns = [members[(step * BATCH + place) % classes] for place in range(BATCH)]
        rows = torch.tensor([own[int(draw * len(own))] for own, draw in zip(turns, draws, strict=True)])
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        with torch.autocast(device.type, torch.bfloat16, enabled=quick(device)):
            logits = network(_centered(pictures[rows], device))
        optimizer.zero_grad()
        functional.cross_entropy(logits.float(), labels[rows].to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


@torch.no_grad()
def probabilities(network: nn.Module, pictures: Tensor) -> Tensor:
    """(N, classes) float64, the classes at equal weight, from pictures (N, 1, H, W) in [0, 1]; in float32."""
    device = next(network.parameters()).device
    found = [network(_centered(part, device)).double().softmax(1).cpu() for part in torch.split(pictures, 256)]
    return torch.cat(found)


def _network(classes: int, width: int, seed: int, device: torch.device) -> nn.Module:
    """Its parameters come from their own generator: building it draws nothing from the global one."""
    with torch.device("meta"):
        layers, before = list[nn.Module](), 1
        for after in (width, width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False)]
            layers += [nn.GroupNorm(8, after)] if before > 1 else []  # on the largest map it costs as much as the rest
            layers += [nn.ReLU(inplace=True)]
            before = after
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    network.to_empty(device="cpu")
    g = generator("small CNN", seed, "weights")
    for part in network:
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=g)
        elif isinstance(part, nn.GroupNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Linear):
            nn.init.zeros_(part.weight)  # it starts by saying nothing
            nn.init.zeros_(part.bias)
    return network.to(device).to(memory_format=torch.channels_last)


def _centered(pictures: Tensor, device: torch.device) -> Tensor:
    return (2 * pictures - 1).to(device, memory_format=torch.channels_last)
