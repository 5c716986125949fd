# SPDX-License-Identifier: Apache-2.0
"""Exported models in transformers compute what the library computes.

Run by ctest (label torch), or by hand: export_test.py --program .../xhybrid --make-cases .../torch_make_cases
"""

import argparse
import filecmp
import json
import math
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

PROGRAM = MAKE_CASES = None
TEACHERS = Path(__file__).parent.parent / "vectors" / "teachers"
VERSION = int(transformers.__version__.split(".")[0])
TOLERANCE = 1e-4  # relative, float32: both sides sum in different orders


def load(path, **kwargs):
    return AutoModelForCausalLM.from_pretrained(path, **kwargs).eval()


def generate(model, ids, **options):
    """The new tokens. The mask keeps ids that happen to be the padding's."""
    options.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(ids, do_sample=False, **options)[:, ids.shape[1] :]


def relative_error(got, want):
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def run(*words):
    done = subprocess.run([PROGRAM, *map(str, words), "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


class ExportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.root = Path(cls.scratch.name)
        subprocess.run([MAKE_CASES, cls.root], check=True)
        cls.names = sorted(path.stem for path in cls.root.glob("*.xhy"))
        cls.students = [name for name in cls.names if not name.endswith(".teacher")]
        cls.expected = {name: load_file(cls.root / f"{name}.safetensors") for name in cls.names}
        for name in cls.names:
            run("export", cls.root / f"{name}.xhy", cls.root / name, "--shard-size", "200kB")

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def model(self, name):
        torch.manual_seed(0)
        student = name in self.students
        return load(self.root / name, **({"trust_remote_code": True} if student else {}))

    def ids(self, name):
        return self.expected[name]["ids"].long()

    def test_logits_are_the_librarys(self):
        self.assertGreaterEqual(len(self.students), 18)
        # The tiny teachers' configs are of transformers 5: 4 does not read "rope_parameters".
        for name in self.names if VERSION >= 5 else self.students:
            with self.subTest(name), torch.no_grad():
                model = self.model(name)
                self.assertEqual(model.dtype, torch.float32)
                logits = model(self.ids(name)).logits
                self.assertLess(relative_error(logits, self.expected[name]["logits"]), TOLERANCE)

    def test_bf16_weights_load_as_such_and_compute_nearly_the_same(self):
        name = "hf_llama.softmax"
        run("export", self.root / f"{name}.xhy", self.root / "bf16", "--dtype", "bf16")
        model = load(self.root / "bf16", trust_remote_code=True, dtype="auto")
        self.assertEqual(model.dtype, torch.bfloat16)
        with torch.no_grad():
            logits = model(self.ids(name)).logits
        self.assertEqual(logits.dtype, torch.bfloat16)
        self.assertLess(relative_error(logits, self.expected[name]["logits"]), 0.1)  # three layers of 8 bits

    def test_teachers_load_without_other_code_as_what_they_were(self):
        for name in self.names:
            if name.endswith(".teacher"):
                with self.subTest(name), torch.no_grad():
                    original = load(TEACHERS / name.removesuffix(".teacher"))
                    model = self.model(name)
                    self.assertIs(type(model), type(original))
                    self.assertTrue(torch.equal(model(self.ids(name)).logits, original(self.ids(name)).logits))
                    self.assertFalse(list((self.root / name).glob("*.py")))

    def test_greedy_generation_gives_the_librarys_tokens_with_and_without_cache(self):
        for name in self.students:
            model = self.model(name)
            model.generation_config.eos_token_id = None
            ids, want = self.ids(name)[:1], self.expected[name]["greedy"].tolist()
            for use_cache in (True, False):
                with self.subTest(name, use_cache=use_cache):
                    out = generate(model, ids, max_new_tokens=len(want), use_cache=use_cache)
                    self.assertEqual(out[0].tolist(), want)

    def test_calls_with_a_cache_equal_one_call(self):
        for name in self.students:
            with self.subTest(name), torch.no_grad():
                model, ids = self.model(name), self.ids(name)
                whole, cache, parts = model(ids).logits, None, []
                for first, last in ((0, 70), (70, 71), (71, 90), (90, 100)):
                    output = model(ids[:, first:last], past_key_values=cache, use_cache=True)
                    cache = output.past_key_values
                    parts.append(output.logits)
                self.assertLess(relative_error(torch.cat(parts, dim=1), whole), TOLERANCE)

    def test_the_cache_does_not_grow_with_the_context(self):
        name = "hf_llama.softmax"  # window 9, sinks 2
        with torch.no_grad():
            cache = self.model(name)(self.ids(name), use_cache=True).past_key_values
        for layer in cache.layers:
            self.assertEqual(layer.keys.shape[2], 9 - 1 + 2)

    def test_padding_changes_nothing(self):
        for name in self.students:
            with self.subTest(name), torch.no_grad():
                model, ids = self.model(name), self.ids(name)
                short = ids[1:, :60]
                rows = torch.cat([ids[:1], torch.cat([torch.zeros_like(ids[1:, 60:]), short], dim=1)])
                mask = torch.ones_like(rows)
                mask[1, :40] = 0
                logits = model(rows, attention_mask=mask).logits
                self.assertLess(relative_error(logits[0], model(ids[:1]).logits[0]), TOLERANCE)
                self.assertLess(relative_error(logits[1, 40:], model(short).logits[0]), TOLERANCE)
                right = torch.cat([short, torch.zeros_like(ids[1:, 60:])], dim=1)
                logits = model(right, attention_mask=torch.flip(mask[1:], dims=[1])).logits
                self.assertLess(relative_error(logits[0, :60], model(short).logits[0]), TOLERANCE)

    def test_generation_of_a_padded_batch_gives_what_each_prompt_gives(self):
        for name in self.students:
            with self.subTest(name):
                model, ids = self.model(name), self.ids(name)
                model.generation_config.eos_token_id = None
                short = ids[1:, :60]
                rows = torch.cat([ids[:1], torch.cat([torch.zeros_like(ids[1:, 60:]), short], dim=1)])
                mask = torch.ones_like(rows)
                mask[1, :40] = 0
                both = generate(model, rows, attention_mask=mask, max_new_tokens=12).tolist()
                alone = [generate(model, prompt, max_new_tokens=12)[0].tolist() for prompt in (ids[:1], short)]
                self.assertEqual(both, alone)

    def test_beam_search_is_the_same_with_and_without_cache(self):
        model, ids = self.model("hf_qwen2.softmax"), self.ids("hf_qwen2.softmax")[:, :30]
        cached, plain = (
            generate(model, ids, max_new_tokens=10, num_beams=3, use_cache=use_cache) for use_cache in (True, False)
        )
        self.assertEqual(cached.tolist(), plain.tolist())

    def test_the_loss_has_finite_gradients_in_every_parameter_that_agree_with_a_difference_quotient(self):
        for name in self.students:
            with self.subTest(name):
                model, ids = self.model(name).double(), self.ids(name)
                mask = torch.ones_like(ids)
                mask[1, :40] = 0
                labels = ids.masked_fill(mask == 0, -100)
                labels[1, 40] = -100  # what padding predicts
                loss = model(ids, attention_mask=mask, labels=labels).loss
                loss.backward()
                direction, slope = {}, 0.0
                for key, parameter in model.named_parameters():
                    self.assertIsNotNone(parameter.grad, key)
                    self.assertTrue(torch.isfinite(parameter.grad).all(), key)
                    direction[key] = torch.randn_like(parameter)
                    slope += (direction[key] * parameter.grad).sum().item()
                ends = []
                with torch.no_grad():
                    for step in (1e-8, -2e-8):
                        for key, parameter in model.named_parameters():
                            parameter.add_(step * direction[key])
                        ends.append(model(ids, attention_mask=mask, labels=labels).loss.item())
                self.assertAlmostEqual((ends[0] - ends[1]) / 2e-8, slope, delta=1e-4 * max(1.0, abs(slope)))

    def test_a_directory_saved_by_transformers_comes_back(self):
        for name in ("hf_llama.mixed", "hf_qwen2.hedgehog"):
            with self.subTest(name):
                saved, again = self.root / f"{name}.saved", self.root / f"{name}.again"
                self.model(name).save_pretrained(saved)
                run("import", saved, self.root / f"{name}.back.xhy")
                run("export", self.root / f"{name}.back.xhy", again, "--shard-size", "200kB")
                match, differ, errors = filecmp.cmpfiles(
                    self.root / name, again, [path.name for path in (self.root / name).glob("model*")], shallow=False
                )
                self.assertEqual((differ, errors), ([], []))
                self.assertTrue(match)
                configs = [json.loads((path / "config.json").read_text()) for path in (self.root / name, again)]
                self.assertEqual(configs[0]["xhybrid"], configs[1]["xhybrid"])

    def test_a_model_of_the_config_alone_starts_as_a_student_does(self):
        config = AutoConfig.from_pretrained(self.root / "hf_llama.softmax", trust_remote_code=True)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
        xlstm = model.model.layers[0].self_attn.xlstm
        self.assertTrue(torch.equal(xlstm.query_features.weight, torch.eye(16).expand(4, 16, 16)))
        self.assertTrue(torch.equal(xlstm.output_gate.bias, torch.full((4,), -2.0)))
        self.assertTrue(torch.isfinite(model(self.ids("hf_llama.softmax")).logits).all())


def rope(theta, **scaling):
    """Fields of a config for a rotary embedding, as this version of transformers spells them."""
    if VERSION >= 5:
        return {"rope_parameters": {"rope_theta": theta, "rope_type": "default", **scaling}}
    return {"rope_theta": theta, **({"rope_scaling": scaling} if scaling else {})}


class FamilyTest(unittest.TestCase):
    """The switches of families, with the mixers that are the teacher's own: the families' models in transformers."""

    SIZES = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "initializer_range": 0.2,
    }
    YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    YARN_HERE = {
        "type": "yarn",
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_context": 64,
        "attention_factor": 0.1 * math.log(4.0) + 1,
        "truncate": True,
    }

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.root = Path(cls.scratch.name)
        subprocess.run([MAKE_CASES, cls.root], check=True)
        run("export", cls.root / "hf_llama.softmax.xhy", cls.root / "student")
        cls.student = type(load(cls.root / "student", trust_remote_code=True))

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def check(self, config, rope_here, **switches):
        torch.manual_seed(1)
        family = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for key, parameter in family.named_parameters():
                if "norm" in key:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        parts = {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "layer_count": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            "intermediate_size": config.intermediate_size,
            "norm_eps": config.rms_norm_eps,
            "rope": rope_here,
            "tied_embeddings": False,
            "qkv_bias": False,
            "output_bias": False,
            "mlp_bias": False,
            "mixers": [{"kind": "attention"}] * config.num_hidden_layers,
            **switches,
        }
        model = self.student(self.student.config_class(xhybrid=parts)).eval()
        model.load_state_dict(family.state_dict(), strict=True)
        ids = torch.randint(0, config.vocab_size, (2, 90))
        with torch.no_grad():
            self.assertLess(relative_error(model(ids).logits, family(ids).logits), TOLERANCE)

    def test_qwen3_normalises_queries_and_keys_of_each_head(self):
        config = transformers.Qwen3Config(**self.SIZES, head_dim=16, **rope(1e6))
        self.check(config, {"type": "default", "theta": 1e6}, qk_norm="head")

    def test_olmo2_normalises_after_the_blocks_and_whole_queries_and_keys(self):
        config = transformers.Olmo2Config(**self.SIZES, **rope(5e5))
        self.check(config, {"type": "default", "theta": 5e5}, qk_norm="full", norm_placement="post")

    def test_olmo3_has_sliding_layers_with_their_own_rotary_embedding(self):
        types = ["sliding_attention", "full_attention", "sliding_attention"]
        yarn = rope(1e4, **self.YARN)
        if VERSION >= 5:  # one for each kind of layer
            plain = {"rope_theta": 1e4, "rope_type": "default"}
            yarn = {"rope_parameters": {"full_attention": yarn["rope_parameters"], "sliding_attention": plain}}
        config = transformers.Olmo3Config(**self.SIZES, layer_types=types, sliding_window=7, **yarn)
        self.check(
            config,
            {"theta": 1e4, **self.YARN_HERE},
            qk_norm="full",
            norm_placement="post",
            sliding_rope={"type": "default", "theta": 1e4},
            sliding_layers=[0, 2],
            mixers=[
                {"kind": "window", "windows": [7, 7], "sinks": 0},
                {"kind": "attention"},
                {"kind": "window", "windows": [7, 7], "sinks": 0},
            ],
        )

    def test_llama_with_linear_scaling_and_with_yarn(self):
        linear = transformers.LlamaConfig(**self.SIZES, **rope(1e4, rope_type="linear", factor=4.0))
        self.check(linear, {"type": "linear", "theta": 1e4, "factor": 4.0})
        yarn = transformers.LlamaConfig(**self.SIZES, **rope(1e4, **self.YARN))
        self.check(yarn, {"theta": 1e4, **self.YARN_HERE})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--make-cases", required=True)
    known, rest = parser.parse_known_args()
    PROGRAM, MAKE_CASES = known.program, known.make_cases
    torch.set_num_threads(2)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
