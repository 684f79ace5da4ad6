"""Low-rank adaptation (arXiv 2106.09685) through `peft`: small trained matrices beside frozen layers."""

from torch import nn

from unival.engine.settings import LoraConfig
from unival.errors import UserError


def add(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters into the model, in place; only they are trained afterwards.

    Raises:
        UserError: peft is not installed, no layer has such a name, or one that cannot have an adapter.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError("train.lora: needs peft: pip install 'unival[lora]'") from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=config.targets,
    )
    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise UserError(f"train.lora: targets '{config.targets}': {str(error).splitlines()[0]}") from error
    _require_whole_use(model, config.targets)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def _require_whole_use(model: nn.Module, targets: str) -> None:
    """Raise UserError where a weight with an adapter is also used without it: under another name (tied), or
    read as a table, as those of embeddings. Training would see the adapter in one place, validation and the
    published weights in none or in all."""
    from peft.tuners.lora import LoraLayer

    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.replace(".base_layer", "").rpartition(".")[0])
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        layer = module.get_base_layer()
        others = [other for other in owners[id(layer.weight)] if other != name]
        if others or isinstance(layer, nn.Embedding):
            why = f"shares its weight with '{others[0]}'" if others else "is an embedding"
            raise UserError(
                f"train.lora: targets '{targets}': '{name}' {why}, which an adapter would not reach: "
                "leave it out of targets"
            )


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights of their layers, and take them out of the model."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()  # type: ignore[attr-defined]
            model.set_submodule(name, module.get_base_layer())
