"""Sampling options of the command line as the library takes them."""

from dataclasses import replace

from rwkv_edge.sampling import SamplingOptions


def chosen(
    *,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    presence_penalty: float | None,
    frequency_penalty: float | None,
    base: SamplingOptions | None = None,
) -> SamplingOptions:
    """The defaults, with what the user chose; raises InputError for a value out of range."""
    options = base or SamplingOptions()
    return replace(
        options,
        temperature=options.temperature if temperature is None else temperature,
        top_p=options.top_p if top_p is None else top_p,
        top_k=options.top_k if top_k is None else top_k,
        min_p=options.min_p if min_p is None else min_p,
        presence_penalty=(
            options.presence_penalty if presence_penalty is None else presence_penalty
        ),
        frequency_penalty=(
            options.frequency_penalty if frequency_penalty is None else frequency_penalty
        ),
    )
