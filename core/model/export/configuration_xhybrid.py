# SPDX-License-Identifier: Apache-2.0
"""Configuration of a hybrid xLSTM student written by libxhybrid."""

from transformers import PretrainedConfig


class XhybridConfig(PretrainedConfig):
    """The teacher's fields as they were, and what the student is in one object.

    Args:
        xhybrid: sizes, switches of the teacher's family, rotary embedding and the mixer of every layer, as libxhybrid
            keeps them in a checkpoint; the model is built from this alone. It also carries what libxhybrid needs to
            read the directory back: "teacher_config" and "history".
        kwargs: fields of the teacher's config.json.
    """

    model_type = "xhybrid"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, xhybrid=None, **kwargs):
        self.xhybrid = dict(xhybrid or {})
        kwargs.setdefault("tie_word_embeddings", self.xhybrid.get("tied_embeddings", False))
        super().__init__(**kwargs)
