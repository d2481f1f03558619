"""The layers of a model, found by running it: what each is, by where it runs and what it feeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lampq_engine.models.matmul import MatMul, not_a_transformer
from lampq_engine.models.probe import Call, Trace, probe
from lampq_engine.types import Kind, Layer


def survey(model: nn.Module, example: Tensor) -> list[Layer]:
    """List every linear layer, convolution and attention matmul of a routed model in execution order.

    `example` is one image (1, C, H, W); counts are for it. Kinds come from structure and order of execution, never
    from names. `InputError` if the model has no routed attention (`route_matmuls_` was not run or found none).
    """
    trace = probe(model, example)
    calls: dict[str, list[Call]] = {}
    for call in trace.calls:
        if isinstance(model.get_submodule(call.name), (nn.Linear, nn.Conv2d, MatMul)):
            calls.setdefault(call.name, []).append(call)
    if not any(isinstance(model.get_submodule(name), MatMul) for name in calls):
        raise not_a_transformer(model)
    plan = _Plan.of(model, list(calls), trace)
    return [_layer(model.get_submodule(name), name, calls[name], plan) for name in calls]


def bypassed(model: nn.Module, example: Tensor) -> list[str]:
    """Name the linear layers whose weight is used although their forward is never called (SwinV2's and BEiT's qkv).

    A wrapper around such a layer would never run, so that it stays float and is not in the survey.
    """
    trace = probe(model, example)
    called = set(trace.runs.values())
    used = dict.fromkeys(call.weight for call in trace.calls if call.weight)
    return [name for name in used if name not in called and isinstance(model.get_submodule(name), nn.Linear)]


def unrouted(model: nn.Module, example: Tensor) -> list[str]:
    """Name the modules whose products of activations do not go through a `MatMul`; these products stay float."""
    calls = [call for call in probe(model, example).calls if call.op in ("matmul", "attention") and not call.weight]
    return list(dict.fromkeys(c.name for c in calls if not isinstance(model.get_submodule(c.name), MatMul)))


def _layer(module: nn.Module, name: str, calls: Sequence[Call], plan: _Plan) -> Layer:
    kind, block = plan.place(name)
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    return Layer(
        name=name,
        kind=kind,
        block=block,
        weights=0 if weight is None else weight.numel(),
        channels=0 if weight is None else weight.shape[0],
        bias=0 if bias is None else bias.numel(),
        macs=sum(call.macs for call in calls),
        inputs=sum(call.inputs for call in calls),
        outputs=sum(call.outputs for call in calls),
        heads=plan.heads.get(name if weight is None else f"{plan.attention(name)}.qk", 0)
        if kind in ("qkv", "scores", "context")
        else 0,
    )


@dataclass(frozen=True)
class _Plan:
    """Where everything is: enough to say of each layer what kind it is and to which block it belongs."""

    step: dict[str, int]  # layer -> place in execution order
    linear: set[str]  # linear layers, 1x1 convolutions included: they are the same thing
    width: dict[str, int]  # layer -> output channels; only of layers with a weight
    heads: dict[str, int]  # matmul -> attention heads
    attentions: list[str]  # modules that own `qk` and `av`, in execution order
    mlps: dict[str, str]  # module with several linear layers and no attention -> the attention it follows
    homes: dict[str, str]  # attention -> the module that holds it and its MLP; itself, where it has none
    classes: int

    @staticmethod
    def of(model: nn.Module, names: Sequence[str], trace: Trace) -> _Plan:
        modules = {name: model.get_submodule(name) for name in names}
        step = {name: index for index, name in enumerate(names)}
        linear = {name for name, module in modules.items() if _is_linear(module)}
        products = (name for name in names if isinstance(modules[name], MatMul))
        attentions = list(dict.fromkeys(_parent(name) for name in products))
        mlps, homes = _pair(attentions, _groups(linear, attentions), step)
        return _Plan(
            step=step,
            linear=linear,
            width={n: m.weight.shape[0] for n, m in modules.items() if isinstance(m, (nn.Linear, nn.Conv2d))},
            heads={call.name: call.heads for call in trace.calls if call.op == "matmul"},
            attentions=attentions,
            mlps=mlps,
            homes=homes,
            classes=trace.classes,
        )

    def place(self, name: str) -> tuple[Kind, int | None]:
        """Kind and block index of a layer."""
        mlp = next((above for above in _above(name) if above in self.mlps), None)
        if mlp is not None and name in self.linear:
            last = max((other for other in self.linear if _inside(other, mlp)), key=self.step.__getitem__)
            return ("fc2" if name == last else "fc1"), self.attentions.index(self.mlps[mlp])
        owner = self.attention(name)
        if owner:
            return self._in_attention(name, owner), self.attentions.index(owner)
        homes = [attention for attention, home in self.homes.items() if _inside(name, home)]
        if homes:
            before = [attention for attention in homes if self.step[f"{attention}.qk"] < self.step[name]]
            return "other", self.attentions.index((before or homes[:1])[-1])
        return self._outside(name), None

    def attention(self, name: str) -> str:
        """The innermost attention module around a layer; empty where there is none."""
        return next((above for above in _above(name) if above in self.attentions), "")

    def _in_attention(self, name: str, owner: str) -> Kind:
        if name in (f"{owner}.qk", f"{owner}.av"):
            return "scores" if name == f"{owner}.qk" else "context"
        if name in self.linear and self.step[name] < self.step[f"{owner}.qk"]:
            return "qkv"
        if name in self.linear and self.step[name] > self.step[f"{owner}.av"]:
            return "proj"
        return "other"  # between the two: talking heads, the bias table of SwinV2

    def _outside(self, name: str) -> Kind:
        inside = [other for other in self.step if self.attention(other) or _any_inside(other, self.mlps)]
        if self.step[name] < self.step[inside[0]]:
            alone = name not in self.linear or not _group(name, self.linear, self.attentions)
            return "patch" if alone else "other"  # a group there is a table of position biases, not an embedding
        if self.step[name] < self.step[inside[-1]]:
            return "merge"
        return "head" if self.width[name] == self.classes else "other"


def _is_linear(module: nn.Module) -> bool:
    one = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return one or isinstance(module, nn.Linear)


def _pair(
    attentions: Sequence[str], groups: Sequence[str], step: dict[str, int]
) -> tuple[dict[str, str], dict[str, str]]:
    """Match each group of linear layers with the attention that it follows in the same block.

    A group's candidate home is the smallest module around it that holds an attention; it is the home of the last
    attention before the group. Among the homes that an attention gets, the smallest is the block; a group with a
    larger one (a classifier of two layers, whose home is the whole model) is no MLP of a block.
    """
    candidates: list[tuple[str, str, str]] = []  # group, home, attention
    for group in groups:
        home = next(above for above in (*_above(group), "") if any(_is_or_inside(a, above) for a in attentions))
        start = min(place for name, place in step.items() if _inside(name, group))
        before = [a for a in attentions if _is_or_inside(a, home) and step[f"{a}.av"] < start]
        if before and home:
            candidates.append((group, home, before[-1]))
    homes = {attention: attention for attention in attentions}
    for attention in attentions:
        own = [home for _, home, follower in candidates if follower == attention]
        homes[attention] = max(own, key=len, default=attention)
    return {group: a for group, home, a in candidates if homes[a] == home}, homes


def _groups(linear: set[str], attentions: Sequence[str]) -> list[str]:
    """Modules without attention that hold at least two linear layers: the smallest such one around each layer."""
    return list(dict.fromkeys(group for name in sorted(linear) if (group := _group(name, linear, attentions))))


def _group(name: str, linear: set[str], attentions: Sequence[str]) -> str:
    for above in _above(name):
        if any(_is_or_inside(attention, above) for attention in attentions):
            return ""
        if sum(_inside(other, above) for other in linear) >= 2:
            return above
    return ""


def _above(name: str) -> Iterator[str]:
    """The modules around a path, innermost first, without the root."""
    while "." in name:
        name = _parent(name)
        yield name


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _inside(name: str, module: str) -> bool:
    return name.startswith(f"{module}.") if module else bool(name)


def _is_or_inside(name: str, module: str) -> bool:
    return name == module or _inside(name, module)


def _any_inside(name: str, modules: dict[str, str]) -> bool:
    return any(_inside(name, module) for module in modules)
