"""The keys of an image model's configuration files: each is obeyed, without effect here, or refused.

They are those of diffusers' and transformers' classes, which a test compares with the installed ones.
``python -m vgen.backbones.config_keys`` prints docs/guides/image_models.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILT = "obeyed: the net is built by it"
TEACHING = "without effect: of training"
STEPPING = "without effect: how steps are taken is said by sampling.* of vgen"
PROVENANCE = "without effect: says where the file is from"


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a key. ``only`` are the values that may stand there, of a list in each place; null
    always may."""

    told: str
    only: tuple[Any, ...] | None = None

    def allows(self, value: Any) -> bool:
        if self.only is None or value is None:
            return True
        return all(item in self.only for item in (value if isinstance(value, list | tuple) else [value]))


@dataclass(frozen=True, slots=True)
class Kind:
    """A part of an image model: the classes that may be named for it, the keys that they have, and keys that
    other tools and versions leave in such files."""

    part: str
    classes: tuple[str, ...]
    keys: Mapping[str, Rule]
    foreign: Mapping[str, Rule]


def _all(told: str, *names: str) -> dict[str, Rule]:
    return {name: Rule(told) for name in names}


def _only(told: str, **values: tuple[Any, ...]) -> dict[str, Rule]:
    return {name: Rule(told, only) for name, only in values.items()}


_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")
_TEXT_ONLY = "refused otherwise: vgen tells the UNet the text, and SDXL's sizes"
_PLAIN = "refused otherwise: vgen runs plain attention at every site"

UNET = Kind(
    "unet",
    ("UNet2DConditionModel",),
    {
        **_all(
            BUILT,
            *(
                "center_input_sample",
                "flip_sin_to_cos",
                "freq_shift",
                "block_out_channels",
                "layers_per_block",
            ),
            *("downsample_padding", "mid_block_scale_factor", "dropout", "act_fn", "norm_num_groups"),
            *("norm_eps", "cross_attention_dim", "transformer_layers_per_block", "encoder_hid_dim"),
            *("reverse_transformer_layers_per_block", "attention_head_dim", "num_attention_heads"),
            *("use_linear_projection", "addition_time_embed_dim", "resnet_time_scale_shift"),
            *("resnet_skip_time_act", "resnet_out_scale_factor", "time_embedding_type", "time_embedding_dim"),
            *("time_embedding_act_fn", "timestep_post_act", "conv_in_kernel", "conv_out_kernel"),
            *("projection_class_embeddings_input_dim", "addition_embed_type_num_heads"),
        ),
        "sample_size": Rule("obeyed: with the VAE's stride the size at which clips are drawn"),
        "in_channels": Rule("obeyed; refused where the VAE has another number of latent channels"),
        "out_channels": Rule("obeyed; refused where the VAE has another number of latent channels"),
        "down_block_types": Rule(_PLAIN, _DOWN),
        "mid_block_type": Rule(_PLAIN, ("UNetMidBlock2DCrossAttn",)),
        "up_block_types": Rule(_PLAIN, _UP),
        **_only(_PLAIN, only_cross_attention=(False,), dual_cross_attention=(False,)),
        **_only(_PLAIN, mid_block_only_cross_attention=(False,), cross_attention_norm=()),
        **_only(_PLAIN, attention_type=("default",)),
        **_only(_TEXT_ONLY, encoder_hid_dim_type=("text_proj",), class_embed_type=(), num_class_embeds=()),
        **_only(_TEXT_ONLY, addition_embed_type=("text_time",), class_embeddings_concat=(False,)),
        "time_cond_proj_dim": Rule("refused: the UNet wants to be told its guidance (a distilled LCM)", ()),
        "upcast_attention": Rule("without effect: attention's kernels add up in fp32"),
    },
    {
        **_all(
            TEACHING,
            *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step"),
            *("use_ema_warmup",),
        ),
        "predict_epsilon": Rule("without effect: the scheduler's prediction_type says it"),
    },
)

VAE = Kind(
    "vae",
    ("AutoencoderKL",),
    {
        **_all(
            BUILT,
            *("block_out_channels", "layers_per_block", "act_fn", "latent_channels", "norm_num_groups"),
            *("down_block_types", "up_block_types", "use_quant_conv", "use_post_quant_conv"),
            "mid_block_add_attention",
        ),
        **_only("refused otherwise: pictures have three channels", in_channels=(3,), out_channels=(3,)),
        **_all("obeyed", "scaling_factor", "shift_factor", "latents_mean", "latents_std"),
        "force_upcast": Rule(
            "obeyed where a file says it, and in SDXL: in fp16 the VAE stays in fp32, as in diffusers"
        ),
        "sample_size": Rule("without effect: the UNet's says the size"),
    },
    {},
)

_CLIP = (
    *("vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers"),
    *("num_attention_heads", "max_position_embeddings", "hidden_act", "layer_norm_eps", "attention_dropout"),
)
_SELDOM = "without effect: nothing of CLIP's text encoder reads it"

TEXT_ENCODER = Kind(
    "text_encoder",
    ("CLIPTextModel", "CLIPTextModelWithProjection"),
    {
        **_all(BUILT, *_CLIP),
        "eos_token_id": Rule("obeyed: where the pooled text is taken from"),
        **_all("without effect: the tokenizer says it", "pad_token_id", "bos_token_id"),
        **_all(TEACHING, "initializer_range", "initializer_factor"),
        "architectures": Rule("obeyed: with a projection or without"),
        **_all(PROVENANCE, "transformers_version"),
        "dtype": Rule("without effect: the command's dtype or trainer.precision says it"),
        **_all("without effect: vgen asks for what it needs", "output_hidden_states", "return_dict"),
        **_all(
            _SELDOM, "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type"
        ),
    },
    {
        **_all(PROVENANCE, "model_type", "torch_dtype"),
        **_all("without effect: vgen asks for what it needs", "output_attentions", "use_return_dict"),
        **_all(
            _SELDOM,
            *("dropout", "num_labels", "tie_word_embeddings", "is_decoder", "add_cross_attention", "prefix"),
            *("cross_attention_hidden_size", "tie_encoder_decoder", "torchscript", "use_bfloat16"),
            *("pruned_heads", "task_specific_params", "tokenizer_class", "decoder_start_token_id"),
            *("sep_token_id", "finetuning_task", "tf_legacy_loss", "gradient_checkpointing"),
            *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
            *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
            *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
            *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
            *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
            *("suppress_tokens", "begin_suppress_tokens", "use_cache"),
        ),
    },
)

_READ = "obeyed: the tokenizer is made by it"
TOKENIZER = Kind(
    "tokenizer",
    ("CLIPTokenizer", "CLIPTokenizerFast"),
    _all(_READ, "vocab", "merges", "unk_token", "bos_token", "eos_token", "pad_token"),
    {
        "model_max_length": Rule("obeyed: prompts are padded and cut to it"),
        **_all(_READ, "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"),
        **_all(_READ, "padding_side", "truncation_side", "split_special_tokens", "pad_token_type_id"),
        **_only("refused otherwise: CLIP's words are small letters", do_lower_case=(True,)),
        **_only("refused otherwise", add_prefix_space=(False,), errors=("replace",)),
        **_all(
            PROVENANCE, "name_or_path", "special_tokens_map_file", "tokenizer_file", "backend", "is_local"
        ),
        **_all(PROVENANCE, "local_files_only", "use_fast", "processor_class", "model_input_names"),
        **_all("without effect: of decoding", "clean_up_tokenization_spaces"),
        **_all(
            "without effect: vgen pads and cuts to model_max_length",
            *("max_length", "pad_to_multiple_of", "stride", "truncation_strategy", "padding", "truncation"),
        ),
    },
)

_LATENTS = "refused otherwise: it is for pictures, not for latents"
SCHEDULER = Kind(
    "scheduler",
    (
        *("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
        *("EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler"),
        *("HeunDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler"),
    ),
    {
        **_all("obeyed", "num_train_timesteps", "beta_start", "beta_end"),
        **_only("refused otherwise", beta_schedule=("linear", "scaled_linear"), trained_betas=()),
        **_only("refused otherwise", prediction_type=("epsilon", "v_prediction", "sample")),
        "set_alpha_to_one": Rule("obeyed by sampling.solver=ddim"),
        **_only(
            "refused otherwise: it changes the noise that was trained on", rescale_betas_zero_snr=(False,)
        ),
        **_only("refused otherwise: flow matching", use_flow_sigmas=(False,)),
        **_only("refused otherwise: noise levels of another kind (EDM)", timestep_type=("discrete",)),
        **_only(_LATENTS, clip_sample=(False,), thresholding=(False,)),
        **_all(
            STEPPING,
            *("steps_offset", "dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value"),
            *("timestep_spacing", "variance_type", "skip_prk_steps", "interpolation_type", "sigma_min"),
            *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "sigma_max"),
            *("final_sigmas_type", "solver_order", "algorithm_type", "solver_type", "lower_order_final"),
            *("euler_at_final", "use_lu_lambdas", "flow_shift", "lambda_min_clipped", "predict_x0"),
            *("use_dynamic_shifting", "time_shift_type", "disable_corrector", "solver_p", "shift_terminal"),
            *("original_inference_steps", "timestep_scaling"),
        ),
    },
    _all(STEPPING, "skip_timesteps", "solver_last_step", "denoise_final"),
)

KINDS = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": TEXT_ENCODER,
    "text_encoder_2": TEXT_ENCODER,
    "tokenizer": TOKENIZER,
    "tokenizer_2": TOKENIZER,
    "scheduler": SCHEDULER,
}
"""By the folder of an image model."""

BETAS = {
    "HeunDiscreteScheduler": (0.00085, 0.012, "linear"),
    "LCMScheduler": (0.00085, 0.012, "scaled_linear"),
}
OTHER_BETAS = (0.0001, 0.02, "linear")
"""``beta_start``, ``beta_end`` and ``beta_schedule`` of a scheduler whose file leaves them out, by class."""

_HEAD = """# Image models: what vgen reads of their files

A folder in the layout of Stable Diffusion 1, 2 or XL. Every key of its configurations is obeyed, without
effect here, or refused by name before work begins; so is a class that is not named here. This page is printed
by `python -m vgen.backbones.config_keys`; a test compares the keys with those of the installed diffusers and
transformers.
"""


def page() -> str:
    """The tables as Markdown."""
    lines = [_HEAD]
    for kind in (UNET, VAE, TEXT_ENCODER, TOKENIZER, SCHEDULER):
        lines += [
            f"## {kind.part}: {', '.join(kind.classes)}",
            "",
            "| keys | what becomes of them |",
            "|---|---|",
        ]
        told: dict[str, list[str]] = {}
        for name, rule in {**kind.keys, **kind.foreign}.items():
            told.setdefault(_said(rule), []).append(f"`{name}`")
        lines += [f"| {', '.join(names)} | {said} |" for said, names in told.items()]
        lines.append("")
    return "\n".join(lines)


def _said(rule: Rule) -> str:
    if rule.only is None:
        return rule.told
    return f"{', '.join(f'`{value}`' for value in rule.only) or '`null`'}; {rule.told}"


if __name__ == "__main__":
    print(page(), end="")
