"""Plan: what a call for images will do, resolved and checked before anything is computed."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vlgen import __version__
from vlgen.adapter import distilled
from vlgen.asked import LONGEST as LONGEST  # for those who read texts of the same length
from vlgen.asked import count, numbers, words
from vlgen.backbone import Backbone
from vlgen.findings import VOCABULARY
from vlgen.kernels import Kernel, kernel
from vlgen.modality import MODALITIES, Modality, modality
from vlgen.precision import check_exact
from vlgen.report import Report
from vlgen.schedules import DISTILLED, SEARCHED, choose, home, stored
from vlgen.solvers import Solver, check_kernel, solver
from vlgen.text import Tokens


@dataclass(frozen=True)
class Plan:
    """What a call will do, with everything resolved, before anything is computed.

    nfe    network evaluations per image, both halves of guidance counted; of an adaptive solver, the fewest
    notes  what the user should know: a kernel the weights do not know, a modality that was assumed, tokens dropped
    """

    report: str
    prompt: str
    tokens: Tokens
    modality: Modality
    negative: str
    kernel: Kernel
    solver: Solver
    schedule: str
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    guidance_rescale: float
    sigmas: Tensor
    seeds: tuple[int, ...]
    exact: bool
    model: str
    adapters: Mapping[str, float]
    device: str
    notes: tuple[str, ...]

    @property
    def nfe(self) -> int:
        asked, (lo, hi) = self.solver.levels(self.sigmas), self.guidance_interval
        return len(asked) + (sum(lo <= sigma <= hi for sigma in asked) if self.guidance_scale != 1 else 0)

    def line(self) -> str:
        """The plan in one line."""
        adapters = " + ".join(f"{name}:{scale:g}" for name, scale in self.adapters.items()) or "none"
        return (
            f"model {self.model} | adapter {adapters} | kernel {self.kernel.name} | solver {self.solver.name} | "
            f"steps {self.steps} | nfe {self.nfe} | guidance {self.guidance_scale:g} | seeds {ranges(self.seeds)} | "
            f"device {self.device}"
        )

    def record(self) -> dict[str, object]:
        """The plan for a machine to read; the report by its sha256."""
        return {
            "model": self.model,
            "adapters": dict(self.adapters),
            "kernel": self.kernel.name,
            "solver": self.solver.name,
            "schedule": self.schedule,
            "steps": self.steps,
            "nfe": self.nfe,
            "guidance_scale": self.guidance_scale,
            "seeds": list(self.seeds),
            "device": self.device,
            "modality": self.modality.name,
            "report_sha256": digest(self.report),
            "tokens": {"kept": self.tokens.kept, "dropped": self.tokens.dropped, "chunks": len(self.tokens.chunks)},
            "notes": list(self.notes),
        }

    def provenance(self, backbone: Backbone, seed: int, batch: Sequence[int]) -> dict[str, object]:
        """What a file will say of how it was made; reports by their sha256 beside the text, which writers leave out.

        batch  the seeds that were drawn together: the same bits come back from the same batch
        """
        return {
            "software": f"vlgen {__version__}",
            "model": self.model,
            "model_source": backbone.source,
            "model_fingerprint": backbone.fingerprint,
            "adapters": dict(self.adapters),
            "adapter_sha256": list(backbone.adapter_sha256),
            "adapter_forced": list(backbone.forced),
            "kernel": self.kernel.name,
            "solver": self.solver.name,
            "schedule": self.schedule,
            "steps": self.steps,
            "nfe": self.nfe,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": [v if math.isfinite(v) else None for v in self.guidance_interval],
            "guidance_rescale": self.guidance_rescale,
            "sigma_max": float(self.sigmas[0]),
            "sigma_min": float(self.sigmas[-2]),
            **({"sigmas": self.sigmas.tolist()} if self.schedule in (SEARCHED, DISTILLED) else {}),
            "seed": seed,
            "batch_seeds": list(batch),
            "exact": self.exact,
            "precision": backbone.precision,
            "report": self.report,
            "report_sha256": digest(self.report),
            "negative": self.negative,
            "negative_sha256": digest(self.negative),
        }


def plan(
    backbone: Backbone,
    report: str,
    *,
    seeds: Iterable[int] = range(4),
    steps: int | None = None,
    solver_name: str | None = None,
    schedule_name: str | None = None,
    kernel_name: str | None = None,
    guidance_scale: float | None = None,
    negative: str = "",
    exact: bool = False,
) -> Plan:
    """Resolve a call: what is not given comes from the model's own defaults.

    Raises ValueError in one sentence for whatever cannot be done.
    """
    own: dict[str, Any] = {
        "solver": "dpmpp_2m",
        "schedule": "karras",
        "steps": 25,
        "guidance_scale": 5.0,
        "guidance_rescale": 0.0,
    }
    few = distilled(backbone.carried.values())
    own |= dict(backbone.defaults) | (few.defaults if few else {})
    steps = count(own["steps"] if steps is None else steps)
    scale = float(own["guidance_scale"] if guidance_scale is None else guidance_scale)
    if not (math.isfinite(scale) and 0 <= scale <= 100):
        raise ValueError(f"guidance scale {scale} was given: use 0 to 100, where 1 is no guidance")
    chosen, noise = solver(str(solver_name or own["solver"])), kernel(kernel_name or backbone.kernel)
    check_kernel(chosen, noise)
    text = words(report, "report")
    read, notes = Report.parse(text), list[str]()
    check_exact(exact, backbone.precision)
    kind, prompt = _modality(read, backbone, notes)
    tokens = backbone.tokens(prompt)
    if tokens.dropped:
        notes.append(f"the report is longer than the encoder: {tokens.dropped} tokens at its end were dropped")
    foreign = sum(not c.isascii() and c.isalpha() for c in text)
    if foreign:
        notes.append(f"{foreign} letters are not English: the model was trained on English reports alone")
    if noise.D != kernel(backbone.kernel).D:
        notes.append(f"kernel {noise.name}, but these weights were trained under {backbone.kernel}: {_swap(noise.D)}")
    for asked in backbone.modalities:
        if asked != kind.name:
            notes.append(f"the report asks for {kind.title}, but an adapter was trained on {MODALITIES[asked].title}")
    notes += [f"overridden: {difference}" for difference in backbone.forced]
    against = words(negative, "negative text") if negative else ""
    if against and (lost := backbone.tokens(against).dropped):
        notes.append(f"the negative text is longer than the encoder: {lost} tokens at its end were dropped")
    low, high = own.get("guidance_interval", (0.0, math.inf))
    guidance = (scale, float(low), float(high), float(own["guidance_rescale"]))
    known = stored(home(backbone.folder, backbone.carried.values()))
    key = (chosen.name, noise.name, guidance, steps)
    fit = [each for each in known if each.key == key and each.of(backbone.fingerprint)]
    name, sigmas = choose(schedule_name, steps, backbone.sigmas, own, fit, few.levels.get(steps) if few else None)
    notes += few.notes(chosen.name, steps, scale) if few else []
    return Plan(
        report=text,
        prompt=prompt,
        tokens=tokens,
        modality=kind,
        negative=against,
        kernel=noise,
        solver=chosen,
        schedule=name,
        steps=steps,
        guidance_scale=scale,
        guidance_interval=guidance[1:3],
        guidance_rescale=guidance[3],
        sigmas=sigmas,
        seeds=numbers(seeds),
        exact=exact,
        model=backbone.name,
        adapters=dict(backbone.adapters),
        device=str(backbone.device),
        notes=tuple(notes),
    )


def again(found: Mapping[str, Any]) -> str:
    """The command that makes a file again, quoted for a shell; a text that the file did not keep is a file to give.

    Raises ValueError where the provenance does not say enough.
    """

    def number(value: Any) -> str:
        return repr(float(value))

    try:
        words = ["vlgen", "generate", str(found.get("report") or "@REPORT.txt"), "--model", str(found["model_source"])]
        for name, scale in dict(found["adapters"]).items():
            words += ["--adapter", f"{name}:{number(scale)}"]
        words += ["--force-adapter"] * bool(found.get("adapter_forced"))
        words += [
            "--seeds",
            str(int(found["seed"])) if found["exact"] else ranges([int(s) for s in found["batch_seeds"]]),
        ]
        words += ["--steps", str(int(found["steps"])), "--solver", str(found["solver"])]
        words += ["--schedule", str(found["schedule"]), "--kernel", str(found["kernel"])]
        words += ["--guidance-scale", number(found["guidance_scale"])]
        words += ["--precision", "bf16"] * (found.get("precision") == "bf16")
        if found["negative_sha256"] != digest(""):
            words += ["--negative", str(found.get("negative") or "@NEGATIVE.txt")]
        return shlex.join(words + ["--exact"] * bool(found["exact"]))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            "the file does not say all of how it was made: it may be of another version of vlgen"
        ) from None


def ranges(seeds: Sequence[int]) -> str:
    """Seeds as people write them: 0-3,7."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def digest(text: str) -> str:
    """The sha256 of a text, as files carry it in place of the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


_SHOWN = {"brain": "mri", "breast": "us", "chest": "cxr"}  # what most often shows a part of the body


def _modality(report: Report, backbone: Backbone, notes: list[str]) -> tuple[Modality, str]:
    """The modality of a report, and its prompt: where the report names none, that of its findings.

    Adapters may bring a modality, or a window of their own, in which their images' numbers are then to be read.
    """
    known = [str(name) for name in backbone.card.get("modalities", MODALITIES)]
    known += [name for name in backbone.modalities if name not in known]
    prompt = report.prompt()
    if report.modality:
        if report.modality not in known:
            raise ValueError(
                f"the report asks for {MODALITIES[report.modality].title}, but model {backbone.name} makes "
                f"{', '.join(MODALITIES[name].title for name in known)}: change the text or the model"
            )
        return _windowed(modality(report.modality), backbone), prompt
    likely = [_SHOWN[report.body]] if _SHOWN.get(report.body) in known else []
    likely += [name for f in report.findings for name in VOCABULARY[f.name].modalities if name in known]
    kind = _windowed(modality(likely[0] if likely else known[0]), backbone)
    notes.append(f"the report names no modality: {kind.title} was put before it")
    return kind, f"{kind.title[0].upper()}{kind.title[1:]}. {prompt}"


def _windowed(kind: Modality, backbone: Backbone) -> Modality:
    return replace(kind, window=backbone.windows.get(kind.name, kind.window))


def _swap(D: float) -> str:
    """What comes of a kernel that the weights were not trained under."""
    if math.isinf(D):
        return "what they learned of other noise levels is not used"
    return f"expect random contrast (spread about {100 / math.sqrt(2 * D):.0f} %), not PFGM++"
