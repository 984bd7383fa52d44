"""Teachers, students and their sizes; the teacher's answers."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from tests.toys import toy_teacher
from tinybert_lite import UserError, teacher_cache
from tinybert_lite.attention import capture
from tinybert_lite.data.storage import load_tensors
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.distillation import IntermediateLoss
from tinybert_lite.mapping import layer_mapping
from tinybert_lite.models import loading
from tinybert_lite.models.loading import load_classifier, load_encoder
from tinybert_lite.models.sizes import flops, parameters
from tinybert_lite.students import (
    PRESETS,
    Preset,
    Projection,
    build_student,
    student_config,
    svd_init,
)
from tinybert_lite.teacher_cache import TeacherCache, attention_form

BERT_BASE = BertConfig()  # the defaults are bert-base-uncased
TEXTS = ["the film was good", "the book was bad and the play was poor", "fine", "today 1 2 3"] * 3


def size(config) -> int:
    """Parameters of an encoder with pooler; on "meta" no memory is spent on them."""
    with torch.device("meta"):
        return parameters(AutoModel.from_config(config))


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Folders: a toy teacher of three classes, of two, and one without a head."""
    folder = tmp_path_factory.mktemp("toys")
    toy_teacher(folder / "three", width=24, id2label={0: "bad", 1: "good", 2: "so-so"})
    toy_teacher(folder / "two", width=24)
    model, tokenizer = load_classifier(str(folder / "three"))
    model.base_model.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return folder


# Sizes ------------------------------------------------------------------------------------------


def test_presets_have_the_papers_parameters_beside_bert_base():
    assert size(BERT_BASE) == 109_482_240
    assert size(student_config(BERT_BASE, "tinybert4")) == 14_350_248
    assert size(student_config(BERT_BASE, "tinybert6")) == 66_955_008


def test_presets_have_the_designs_parameters_beside_the_embedded_teacher(teacher_dir):
    teacher = AutoConfig.from_pretrained(teacher_dir)
    assert size(teacher) / 1e6 == pytest.approx(22.71, abs=0.005)
    assert size(student_config(teacher, "lite")) / 1e6 == pytest.approx(7.33, abs=0.01)
    assert size(student_config(teacher, "nano")) / 1e6 == pytest.approx(2.87, abs=0.01)


def test_flops_are_those_of_the_papers_table_1():
    assert flops(BERT_BASE) == pytest.approx(22.5e9, rel=0.01)
    assert flops(student_config(BERT_BASE, "tinybert4")) == pytest.approx(1.2e9, rel=0.04)
    assert flops(student_config(BERT_BASE, "tinybert6")) == pytest.approx(11.3e9, rel=0.02)


def test_flops_are_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = BertModel(student_config(BERT_BASE, "tinybert4"), add_pooling_layer=False)
        words = torch.zeros(1, 128, dtype=torch.long)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model.eval()(input_ids=words)
    assert counter.get_total_flops() == flops(model.config)


def test_shared_parameters_count_once():
    one = nn.Linear(3, 3)
    assert parameters(nn.ModuleList([one, one])) == 12


# Students ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    heads=st.integers(1, 16), per_head=st.integers(1, 64), layers=st.integers(1, 12),
    feed_forward=st.integers(1, 4000), labels=st.integers(1, 9),
)  # fmt: skip
def test_a_students_config_is_its_own_and_keeps_what_equation_7_needs(
    heads, per_head, layers, feed_forward, labels
):
    teacher = BertConfig(
        num_attention_heads=heads, hidden_size=64 * heads, num_labels=labels, vocab_size=99
    )
    before = teacher.to_dict()
    config = student_config(teacher, Preset(layers, heads * per_head, feed_forward))
    assert config is not teacher and teacher.to_dict() == before
    assert config.num_attention_heads == heads and config.num_hidden_layers == layers
    assert config.hidden_size == heads * per_head and config.intermediate_size == feed_forward
    assert (config.num_labels, config.vocab_size) == (labels, 99)
    config.id2label[0] = "changed"
    config.num_hidden_layers = 77
    assert teacher.to_dict() == before


def test_a_student_and_its_teacher_switch_attention_apart(toys):
    teacher, tokenizer = load_classifier(str(toys / "three"))
    student = build_student(teacher.config, Preset(2, 12, 24))
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    before = student.config._attn_implementation
    teacher.set_attn_implementation("eager")
    assert student.config._attn_implementation == before != "eager"
    capture(student, inputs)
    assert teacher.config._attn_implementation == "eager"


def test_the_same_seed_gives_the_same_student_whatever_was_drawn_before():
    teacher = BertConfig(vocab_size=50, hidden_size=24, num_attention_heads=12)
    students = []
    for seed in (5, 5, 6):
        torch.rand(len(students) + 1)
        state = torch.get_rng_state()
        students.append(build_student(teacher, Preset(1, 12, 24), seed).state_dict())
        assert torch.equal(state, torch.get_rng_state())  # and the caller's generator is left alone
    assert all(torch.equal(v, students[1][k]) for k, v in students[0].items())
    word = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(students[0][word], students[2][word])


@pytest.mark.parametrize(("heads", "fits"), [(8, "80 or 88"), (5, "80 or 85"), (100, "width 100")])
def test_a_width_the_heads_do_not_divide_gets_an_error_that_says_what_would(heads, fits):
    with pytest.raises(UserError, match=fits):
        student_config(BERT_BASE, Preset(3, 84, 336, heads))


@pytest.mark.parametrize(
    ("heads", "width", "own"), [(8, 768, 6), (5, 40, 4), (100, 200, 4), (7, 49, 7)]
)
def test_without_a_number_of_heads_the_student_gets_one_that_divides_both_widths(heads, width, own):
    teacher = BertConfig(num_attention_heads=heads, hidden_size=width)
    assert student_config(teacher, "nano").num_attention_heads == own


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="lite, nano, tinybert4, tinybert6"):
        student_config(BERT_BASE, "tiny")
    assert list(PRESETS) == ["lite", "nano", "tinybert4", "tinybert6"]


# Projection and warm start ----------------------------------------------------------------------


def test_the_papers_projection_is_two_matrices_without_bias():
    projection = Projection(12, 24)
    assert parameters(projection) == 2 * 12 * 24
    assert projection(0) is not projection(1) and projection(1) is projection(3)
    assert projection(0).bias is None and projection(1).bias is None


def test_the_authors_projection_is_one_biased_layer_for_all():
    projection = Projection(12, 24, "shared")
    assert parameters(projection) == 12 * 24 + 24
    assert projection(0) is projection(1) is projection(3)
    with pytest.raises(UserError, match="paper or shared"):
        Projection(12, 24, "other")


def test_the_same_seed_gives_the_same_projection():
    a, b, c = Projection(4, 6, seed=1), Projection(4, 6, seed=1), Projection(4, 6, seed=2)
    assert torch.equal(a(1).weight, b(1).weight) and torch.equal(a(0).weight, b(0).weight)
    assert not torch.equal(a(1).weight, c(1).weight)


def embedding_loss(student, projection, teacher, words) -> float:
    with torch.no_grad():
        ours = student.base_model.embeddings(input_ids=words)
        theirs = teacher.base_model.embeddings(input_ids=words)
        return (projection(0)(ours) - theirs).square().mean().item()


@pytest.mark.parametrize("form", ["paper", "shared"])
def test_a_warm_start_is_nearer_to_the_embedded_teacher_than_a_random_one(teacher_dir, form):
    teacher = load_encoder(str(teacher_dir))[0]
    words = torch.randint(1000, 30_000, (8, 32), generator=torch.Generator().manual_seed(0))
    student = build_student(teacher.config, Preset(1, 192, 192))
    projection = Projection(192, 384, form)
    # The best any map can do without looking at the words: answer with the mean.
    with torch.no_grad():
        theirs = teacher.embeddings(input_ids=words)
    blind = (theirs - theirs.mean((0, 1))).square().mean().item()
    cold = embedding_loss(student, projection, teacher, words)
    svd_init(student, projection, teacher)
    warm = embedding_loss(student, projection, teacher, words)
    assert warm < 0.5 * blind < cold
    assert torch.equal(projection(0).weight, projection(1).weight)


def test_a_warm_start_as_wide_as_the_teacher_is_the_teacher(toys):
    teacher, _ = load_encoder(str(toys / "three"))
    student = build_student(teacher.config, Preset(1, 24, 24))
    projection = Projection(24, 24)
    svd_init(student, projection, teacher)
    table = student.base_model.embeddings.word_embeddings.weight
    rebuilt = table @ table.T  # a rotation keeps every inner product
    original = teacher.embeddings.word_embeddings.weight
    torch.testing.assert_close(rebuilt, original @ original.T, rtol=1e-3, atol=1e-5)


# Loading ----------------------------------------------------------------------------------------


def test_a_classifier_is_loaded_in_evaluation_mode_and_float32(toys):
    model, _ = load_classifier(str(toys / "three"))
    assert not model.training and model.dtype == torch.float32
    assert model.config.id2label == {0: "bad", 1: "good", 2: "so-so"}


def test_asked_for_classes_a_model_gets_a_head_of_their_number_and_keeps_its_encoder(toys):
    whole = load_classifier(str(toys / "three"))[0]
    names = ["a", "b", "c", "d"]
    for folder in ("three", "encoder"):
        model, _ = load_classifier(str(toys / folder), names)
        assert model.classifier.out_features == 4 and list(model.config.id2label.values()) == names
        for key, value in model.base_model.state_dict().items():
            assert torch.equal(value, whole.base_model.state_dict()[key])
    assert load_classifier(str(toys / "three"), regression=True)[0].config.num_labels == 1


def test_a_model_without_a_head_is_no_classifier_as_it_is(toys):
    """transformers would make one up from random numbers."""
    with pytest.raises(UserError, match="no trained classifier"):
        load_classifier(str(toys / "encoder"))


def test_weights_of_another_size_or_depth_are_never_made_up(toys, tmp_path):
    import json
    import shutil

    for key, value in [("num_hidden_layers", 7), ("hidden_size", 48), ("intermediate_size", 50)]:
        folder = tmp_path / key
        shutil.copytree(toys / "three", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        for load in (load_classifier, load_encoder):
            with pytest.raises(UserError, match="do not fit its config.json"):
                load(str(folder))
        with pytest.raises(UserError, match="do not fit its config.json"):
            load_classifier(str(folder), ["a", "b"])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_may_be_stored_in_16_and_64_bits_but_not_as_integers(toys, tmp_path, kind):
    shutil.copytree(toys / "three", tmp_path / "stored")
    file = tmp_path / "stored" / "model.safetensors"
    tensors, facts = load_tensors(file)
    tensors["bert.embeddings.position_ids"] = torch.arange(4)[None]  # older files have them
    save_file(
        {k: v.to(kind) if v.is_floating_point() else v for k, v in tensors.items()}, file, facts
    )
    model = load_classifier(str(tmp_path / "stored"))[0]
    key = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(model.state_dict()[key], tensors[key].to(kind).float())
    tensors[key] = (100 * tensors[key]).to(torch.int8)
    save_file(tensors, file, facts)
    with pytest.raises(UserError, match="layer.0.output.dense.weight as I8"):
        load_encoder(str(tmp_path / "stored"))


def test_a_folder_without_a_tokenizer_is_refused(toys, tmp_path):
    """transformers would make one up that takes every word for [UNK]."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((toys / "three" / name).read_bytes())
    for load in (load_classifier, load_encoder, loading.load_tokenizer):
        with pytest.raises(UserError, match="contains no tokenizer"):
            load(str(tmp_path))


def test_remote_code_in_a_folder_is_not_run(toys, tmp_path):
    import json
    import shutil

    folder, ran = tmp_path / "remote", tmp_path / "ran"
    shutil.copytree(toys / "three", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: pass\n")
    with pytest.raises(UserError):
        load_classifier(str(folder))
    assert not ran.exists()


def test_the_hub_is_asked_once_and_only_for_names_that_are_no_folder(toys, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "hub_answers", lambda: bool(asked.append(1)))
    load_classifier(str(toys / "two"))
    assert not asked
    with pytest.raises(UserError, match="try again where there is a network"):
        load_classifier("no-such/model")
    assert asked


# The teacher's answers --------------------------------------------------------------------------


def answers_of(toys, keep: int, what: str = "qk", file=None):
    teacher, tokenizer = load_classifier(str(toys / "three"))
    for layer in teacher.base_model.encoder.layer:  # random weights alone answer almost alike
        layer.attention.self.query.weight.data *= 20
    data = tokenize(tokenizer, TEXTS)
    answers = TeacherCache(teacher.train(), data, layer_mapping(6, 3), what, keep, file=file)
    return answers, data, teacher


def test_short_texts_compare_maps_on_a_cpu_and_all_others_the_gram_form():
    short, long = torch.ones(2, 64), torch.ones(2, 65)
    assert (attention_form("auto", short), attention_form("auto", long)) == ("scores", "qk")
    assert attention_form("auto", short.to("meta")) == "qk"  # any other device
    assert [attention_form(what, short) for what in ("scores", "qk")] == ["scores", "qk"]


@pytest.mark.parametrize("what", ["qk", "scores"])
def test_kept_answers_are_the_asked_ones_up_to_half_precision(toys, what):
    asked, data, _ = answers_of(toys, 0, what)
    kept, _, _ = answers_of(toys, 2**30, what)
    assert asked.store is None and kept.store is not None and kept.store.dtype == torch.float16
    for rows in (np.array([0, 1]), np.array([11, 2, 5, 7]), np.array([2])):
        inputs = data.batch(rows)
        real = inputs["attention_mask"].bool()
        (hidden, attention), (hidden_kept, attention_kept) = asked(rows, inputs), kept(rows, inputs)
        assert len(hidden) == len(hidden_kept) == 4 and len(attention) == len(attention_kept) == 3
        for a, b in zip(hidden, hidden_kept, strict=True):
            torch.testing.assert_close(a[real], b[real], rtol=1e-3, atol=1e-3)
        both = real[:, :, None] & real[:, None, :]
        for a, b in zip(attention, attention_kept, strict=True):
            if what == "scores":
                by_pair = a.permute(0, 2, 3, 1)[both], b.permute(0, 2, 3, 1)[both]
                torch.testing.assert_close(*by_pair, rtol=5e-3, atol=5e-3)
                continue
            for x, y in zip(a, b, strict=True):
                by_token = x.transpose(1, 2)[real], y.transpose(1, 2)[real]
                torch.testing.assert_close(*by_token, rtol=1e-3, atol=1e-3)


def test_the_form_of_the_attention_follows_the_length_and_both_forms_give_the_same_losses(toys):
    student = build_student(load_classifier(str(toys / "three"))[0].config, Preset(3, 24, 48))
    losses = {}
    for what in ("qk", "scores", "auto"):
        answers, data, teacher = answers_of(toys, 2**30, what)
        projection = Projection(24, teacher.config.hidden_size)
        module = IntermediateLoss(student, projection, [0, 2, 4, 6], parts=("attention",)).eval()
        rows = np.array([0, 1, 3])
        inputs = data.batch(rows)
        losses[what] = torch.stack(list(module(inputs, *answers(rows, inputs)).values()))
    torch.testing.assert_close(losses["qk"], losses["scores"], rtol=1e-4, atol=1e-6)
    assert torch.equal(losses["auto"], losses["scores"])  # a CPU, and short texts
    long = torch.ones(1, teacher_cache.SHORT + 1)
    assert teacher_cache.attention_form("auto", long) == "qk"
    assert teacher_cache.attention_form("auto", long[:, 1:]) == "scores"
    assert teacher_cache.attention_form("auto", torch.ones(1, 4, device="meta")) == "qk"


def test_answers_are_of_the_layers_the_mapping_names(toys):
    answers, data, teacher = answers_of(toys, 0)
    rows = np.array([1, 3])
    inputs = data.batch(rows)
    with torch.no_grad():
        got = capture(teacher.eval().base_model, inputs, "qk")
    hidden, attention = answers(rows, inputs)
    assert all(torch.equal(h, got.hidden[g]) for h, g in zip(hidden, [0, 2, 4, 6], strict=True))
    assert all(torch.equal(a[0], got.attention[g][0]) for a, g in zip(attention, [1, 3, 5]))


def test_a_teacher_handed_over_in_training_mode_answers_without_dropout_or_gradients(toys):
    for keep in (0, 2**30):
        answers, data, teacher = answers_of(toys, keep)
        assert not teacher.training and teacher.config.hidden_dropout_prob > 0
        rows = np.array([0, 1])
        once, twice = (answers(rows, data.batch(rows)) for _ in range(2))
        flat = [*once[0], *(t for pair in once[1] for t in pair)]
        again = [*twice[0], *(t for pair in twice[1] for t in pair)]
        assert all(torch.equal(a, b) for a, b in zip(flat, again, strict=True))
        assert not any(t.requires_grad for t in flat)
        assert all(p.grad is None for p in teacher.parameters())


def test_answers_kept_in_a_file_are_those_in_memory_and_the_file_goes_with_them(toys, tmp_path):
    memory = answers_of(toys, 2**30)[0]
    disk = answers_of(toys, 2**30, file=tmp_path / "answers")[0]
    assert torch.equal(disk.store, memory.store) and disk.store.dtype == torch.float16
    if os.name == "posix":
        assert not list(tmp_path.iterdir())  # a kill leaves nothing behind
        maps = Path("/proc/self/maps")
        if maps.is_file():  # and yet it is a file, not memory
            assert str(tmp_path / "answers") in maps.read_text()
            del disk
            gc.collect()
            assert str(tmp_path / "answers") not in maps.read_text()


def test_a_disk_too_small_for_the_answers_is_said_before_the_teacher_is_asked(toys, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes
    try:
        with pytest.raises(UserError, match="free some space, or leave --keep-disk-gib out"):
            answers_of(toys, 2**30, file=tmp_path / "answers")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_answers_are_kept_only_where_they_fit(toys):
    _, data, _ = answers_of(toys, 0)
    need = TeacherCache.bytes_needed(24, data, layer_mapping(6, 3))
    assert need == 2 * 24 * 10 * int(data.offsets[-1])
    kept = answers_of(toys, need)[0].store
    assert kept is not None and kept.numel() * 2 == need
    assert answers_of(toys, need - 1)[0].store is None


def test_another_folder_can_stand_for_the_embedded_teacher(toys, monkeypatch):
    monkeypatch.setenv("TINYBERT_LITE_TEACHER", str(toys / "three"))
    model, _ = load_classifier("minilm", ["bad", "good"])
    assert model.config.hidden_size == 24 and model.dtype == torch.float32


def test_a_shipped_model_can_be_trained_on_with_all_its_weights():
    for name in (
        "reviews-teacher",
        "reviews-lite",
        "reviews-nano",
    ):  # an adapter had frozen the first
        model, _ = load_classifier(name)
        assert not model.training and all(p.requires_grad for p in model.parameters())
