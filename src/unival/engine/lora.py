"""Low-rank adaptation (arXiv 2106.09685) through `peft`: small trained matrices beside frozen layers."""

from torch import nn

from unival.engine.settings import LoraConfig
from unival.errors import UserError


def add(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters into the model, in place; only they are trained afterwards.

    Raises:
        UserError: peft is not installed, or no layer has such a name.
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
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights of their layers, and take them out of the model."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()  # type: ignore[attr-defined]
            model.set_submodule(name, module.get_base_layer())
