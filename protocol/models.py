"""What kind of model a run trains: parts of the manifest, data and never code."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""Of a model, which a stranger's manifest may ask us to build."""
MAX_TENSORS = 4096
MAX_DIMS = 8


class Spec(BaseModel):
    """A frozen part of the manifest; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSpec(Spec):
    """A decoder-only transformer: RMSNorm, rotary positions, gated or plain feed-forward."""

    kind: Literal["transformer"] = "transformer"
    dim: Size = 128
    layers: Annotated[int, Field(ge=1, le=4096)] = 4
    heads: Size = 4
    ffn_dim: Size = 352
    activation: Literal["swiglu", "gelu"] = "swiglu"
    context: Annotated[int, Field(ge=8)] = 128
    tied_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelSpec":
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} is not a multiple of 2 x heads ({self.heads})")
        return self


class HuggingFaceSpec(Spec):
    """A causal language model that `transformers` knows by name; its code comes from there."""

    kind: Literal["huggingface"]
    config: dict[str, Any]
    """As in the model's config.json, with `model_type`; nothing in it may name code elsewhere."""
    context: Annotated[int, Field(ge=8, le=1 << 20)] = 128
    """Tokens predicted in a window."""

    @model_validator(mode="after")
    def _is_named(self) -> "HuggingFaceSpec":
        if not isinstance(self.config.get("model_type"), str):
            raise ValueError("model.config has no model_type")
        if "auto_map" in self.config:
            raise ValueError("model.config names code of its own (auto_map): that is never run")
        return self


class TensorSpec(Spec):
    """One parameter of a model that lives in its owner's loop."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 32)]], Field(max_length=MAX_DIMS)]


class OwnSpec(Spec):
    """A model that its owner's training loop builds; see `thinwire.join`."""

    kind: Literal["own"]
    tensors: Annotated[list[TensorSpec], Field(min_length=1, max_length=MAX_TENSORS)]
    """Its parameters, in order."""


KINDS = ("transformer", "huggingface", "own")


def _kind_of(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind", "transformer"))
    return str(getattr(value, "kind", ""))


AnyModelSpec = Annotated[
    Annotated[ModelSpec, Tag(KINDS[0])]
    | Annotated[HuggingFaceSpec, Tag(KINDS[1])]
    | Annotated[OwnSpec, Tag(KINDS[2])],
    Discriminator(_kind_of),
]
