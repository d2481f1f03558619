"""Loading a model by name, folder, hub id or checkpoint; its preprocessing; a hash of its weights."""

from __future__ import annotations

import difflib
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.models
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from torch import Tensor, nn

from lampq_engine.errors import InputError
from lampq_engine.models.checkpoint import corrupt, load_checkpoint_, short

HUB_SECONDS = 3.0  # how long the hub may take to answer at all
OFFLINE = "Offline, `builtin`, `local-dir:<folder>` and a timm name with a checkpoint file work"


def assets_dir() -> Path:
    """The folder `assets/` of the repository, with the built-in model in it."""
    return Path(__file__).resolve().parents[2] / "assets"


def load_model(name: str, *, checkpoint: str = "") -> nn.Module:
    """Load a timm model in eval mode, float32, on the CPU.

    `name` is a timm name (`deit_tiny_patch16_224`, a tag may follow), `hf-hub:org/model`, `local-dir:/folder` (timm's
    layout), `builtin`, or `random:` and a timm name (untrained, seed 0). A `checkpoint` (.safetensors, .pth, .bin)
    takes the place of the pretrained weights. `InputError` says what is wrong with any of these. Whether the model
    is a Vision Transformer is seen by `route_matmuls_`.
    """
    source, _, rest = name.strip().partition(":")
    pretrained = not checkpoint
    if name.strip() == "builtin":
        model = _from_folder(assets_dir() / "models" / "digits_vit", pretrained)
    elif source == "local-dir":
        model = _from_folder(Path(rest).expanduser(), pretrained)
    elif source == "random":
        model = _random(rest)
    elif source == "hf-hub":
        model = _from_hub(name.strip(), pretrained=pretrained)
    else:
        _check_known(name.strip())
        model = _from_hub(name.strip(), pretrained=True) if pretrained else timm.create_model(name.strip())
    if checkpoint:
        load_checkpoint_(model, Path(checkpoint).expanduser())
    return model.float().eval()


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """What the model expects of its images (size, mean, standard deviation, crop), as timm resolves it."""
    config: dict[str, Any] = timm.data.resolve_data_config({}, model=model)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def transform(model: nn.Module) -> Callable[[Any], Tensor]:
    """The model's own evaluation transform: PIL image in, float tensor (C, H, W) out."""
    result: Callable[[Any], Tensor] = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=model), is_training=False
    )
    return result


def weights_hash(model: nn.Module) -> str:
    """The first 16 hex digits of a SHA-256 over names, types, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _random(name: str) -> nn.Module:
    _check_known(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name)
    return model


def _check_known(name: str) -> None:
    """Refuse a name, or a tag after it, that timm does not have, and offer the nearest ones."""
    if "/" in name or ":" in name or not name:
        raise InputError(
            f"the model name {name!r} is not one of timm's",
            expected="a timm name, `hf-hub:org/model`, `local-dir:/folder` or `builtin`",
            todo=f"Write `hf-hub:{name}` or `local-dir:{name}` if that is meant" if "/" in name else "",
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise _unknown(f"timm has no model {architecture!r}", architecture, timm.list_models())
    known = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and name not in known:
        raise _unknown(f"timm has no weights {tag!r} for {architecture}", name, sorted(known))


def _unknown(wrong: str, name: str, known: list[str]) -> InputError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return InputError(wrong, todo=f"The nearest are {', '.join(near)}" if near else "`timm.list_models()` lists them")


def _from_folder(folder: Path, pretrained: bool) -> nn.Module:
    """A model in timm's local-dir layout: `config.json` beside `model.safetensors`."""
    layout = "a folder with `config.json` and `model.safetensors`, as timm's `save_for_hf` writes it"
    if not folder.is_dir():
        raise InputError(f"the model folder {folder} does not exist", expected=layout)
    for file in ("config.json", "model.safetensors")[: 1 + pretrained]:
        if not (folder / file).is_file():
            raise InputError(f"the model folder {folder} has no {file}", expected=layout)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not valid JSON ({error})", expected=layout) from error
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(
            f"{folder / 'config.json'} names the architecture {architecture!r}",
            expected="the name of a timm model under `architecture`",
        )
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=pretrained)
    except SafetensorError as error:
        raise corrupt(folder / "model.safetensors", error) from error
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, AssertionError) as error:
        raise InputError(
            f"the model folder {folder} does not load as {architecture}: {short(error)}",
            expected="weights that fit `architecture` and `model_args` of its config.json",
        ) from error
    # timm forgets these; a packed file needs them to build the model without its folder
    model.lampq_arguments = config.get("model_args") or {}  # type: ignore[assignment]
    return model


def _from_hub(name: str, *, pretrained: bool) -> nn.Module:
    try:
        with _fail_fast():
            model: nn.Module = timm.create_model(name, pretrained=pretrained)
    except RepositoryNotFoundError as error:
        raise InputError(f"the hub has no model {name.removeprefix('hf-hub:')!r}, or it is private") from error
    except SafetensorError as error:
        raise corrupt(Path(name), error) from error
    except OSError as error:  # every failure to connect, and a file that is not in the cache
        raise _not_fetched(name, error) from error
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, AssertionError) as error:
        raise InputError(
            f"{name} does not load as a timm model with pretrained weights: {short(error)}",
            expected="a model that timm can create, with weights that fit it",
            todo="Choose another name, or give a checkpoint file",
        ) from error
    return model


def _not_fetched(name: str, error: OSError) -> InputError:
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return InputError(
            f"{name} is on the hub, but without the files of a timm model", expected="config.json, weights"
        )
    return InputError(
        f"the weights of {name} could not be fetched: the hub cannot be reached and they are not cached here",
        todo=OFFLINE,
    )


@contextmanager
def _fail_fast() -> Iterator[None]:
    """Ask the hub once; if it does not answer, let only its cache be used.

    Otherwise huggingface_hub tries every file six times with growing pauses: more than a minute on a machine
    without network. Direct downloads (timm's other source) get a time limit on the socket.
    """
    before, socket_before = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    socket.setdefaulttimeout(2 * HUB_SECONDS)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        socket.setdefaulttimeout(socket_before)


def _hub_answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # whatever the HTTP library raises, the answer is no; the load then says why
        return False
    return True
