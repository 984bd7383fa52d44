"""Algorithm 1: what may change, what never does, and that nothing else decides the result."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from tinybert_lite import UserError, augmentation
from tinybert_lite.models import masked_lm
from tinybert_lite.pipeline import masked_lm_training

_WORDS = (
    "the a film movie plot wit actor scene is was sharp dull good bad funny sad can not rescue its "
    "tired very story ending music s t don he she loved hated light dark warm cold end"
)
WORDS = _WORDS.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
PIECES = ["##ish", "##ly", "##s", ",", ".", "'", "!", "2"]
KEEP = {"the", "a", "is", "was", "its", "can", "not", "very", "he", "she"}
TEXTS = [
    "The film's sharp wit can't rescue its tired plot.",
    "A warmish story, very sad!",
    "he loved the music",
    "The ending was dull dull dull",
    "2 ! ,",
    "",
    "zzz the film",
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy masked LM: random weights, 58 tokens, two layers."""
    vocab = tmp_path_factory.mktemp("toy") / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, *WORDS, *PIECES]) + "\n")
    tokenizer = BertTokenizerFast(str(vocab))
    assert len(tokenizer) == len(SPECIAL + WORDS + PIECES)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        initializer_range=0.5,
    )
    return BertForMaskedLM(config).eval(), tokenizer


@pytest.fixture(scope="module")
def glove():
    words = ["warmish", "warm", "cold", "light", ",", "it's", "dark", "the"]
    vectors = [[1, 0], [1, 0.1], [1, 0.3], [1, 0.5], [1, 0], [1, 0], [0, 1], [0.5, 1]]
    return augmentation.Glove(words, np.array(vectors, dtype=np.float32))


def rows(toy, glove, texts=TEXTS, pairs=None, **settings):
    return list(augmentation.augment(texts, pairs, toy, glove, keep=KEEP, **settings))


# Candidates -------------------------------------------------------------------------------------


def test_candidates_are_never_special_tokens_pieces_the_unknown_or_the_word_itself(toy, glove):
    found = augmentation.find_candidates(TEXTS, toy, glove, k=len(toy[1]), keep=())
    varied = [word for words in found for word in words if not word.kept]
    assert varied
    for word in varied:
        names = [name for name, _ in word.candidates]
        assert not set(names) & {*SPECIAL, *PIECES, word.text.lower()}
        assert all(name.isalpha() for name in names)
        if len(word.pieces) == 1 and word.text.lower() in WORDS:
            assert len(names) == len(WORDS) - 1


def test_k_candidates_come_best_first_and_are_the_models_own(toy, glove):
    model, tokenizer = toy
    text = "the film was dull"
    word = augmentation.find_candidates([text], toy, glove, k=5, keep=KEEP)[0][1]
    assert word.text == "film"
    ids = tokenizer("the [MASK] was dull", return_tensors="pt")
    chance = model(**ids).logits[0, 2].softmax(-1)
    order = [tokenizer.convert_ids_to_tokens(int(i)) for i in chance.argsort(descending=True)]
    expected = [token for token in order if token in WORDS and token != "film"][:5]
    assert [name for name, _ in word.candidates] == expected
    scores = [score for _, score in word.candidates]
    numbers = tokenizer.convert_tokens_to_ids(expected)
    assert scores == pytest.approx([chance[i].item() for i in numbers], rel=1e-4)


def test_words_of_several_pieces_take_glove_neighbors(toy, glove):
    words = augmentation.find_candidates(["a warmish story"], toy, glove, k=3, keep=KEEP)[0]
    assert len(words[1].pieces) == 2
    assert [name for name, _ in words[1].candidates] == ["warm", "cold", "light"]


def test_a_word_neither_model_knows_has_no_candidates_and_stays(toy, glove):
    words = augmentation.find_candidates(["coldly plot"], toy, glove, k=3, keep=KEEP)[0]
    assert len(words[0].pieces) == 2
    assert words[0].candidates == []
    drawn = rows(toy, glove, ["coldly plot"], p=1.0)
    assert drawn
    assert all(row["text"].startswith("coldly ") for row in drawn)


def test_function_words_punctuation_and_halves_of_contractions_are_kept(toy, glove):
    words = augmentation.find_candidates([TEXTS[0]], toy, glove, keep=KEEP)[0]
    varied = [word.text for word in words if not word.kept]
    assert varied == ["film", "sharp", "wit", "rescue", "tired", "plot"]
    nothing_kept = augmentation.find_candidates([TEXTS[0]], toy, glove, keep=())[0]
    assert [w.text for w in nothing_kept if not w.kept][:2] == ["The", "film"]


def test_masks_made_together_ask_the_same_words(toy, glove):
    alone = augmentation.find_candidates(TEXTS, toy, glove, keep=KEEP)
    together = augmentation.find_candidates(TEXTS, toy, glove, keep=KEEP, together=3)
    for one, other in zip(alone, together, strict=True):
        assert [w.text for w in one] == [w.text for w in other]
        assert [len(w.candidates) for w in one] == [len(w.candidates) for w in other]


def test_together_gives_each_word_the_guesses_for_its_own_mask(toy, glove):
    model, tokenizer = toy
    text = "sharp film dull plot"
    words = augmentation.find_candidates([text], toy, glove, k=4, keep=(), together=4)[0]
    ids = tokenizer("[MASK] [MASK] [MASK] [MASK]", return_tensors="pt")
    chance = model(**ids).logits[0].softmax(-1)
    for at, word in enumerate(words, start=1):
        best = {tokenizer.convert_tokens_to_ids(name): score for name, score in word.candidates}
        assert [chance[at, i].item() for i in best] == pytest.approx(list(best.values()), rel=1e-4)


# Draws ------------------------------------------------------------------------------------------


def test_p_of_zero_changes_nothing_and_p_of_one_changes_every_word_that_may(toy, glove):
    assert rows(toy, glove, p=0.0) == []
    for row in rows(toy, glove, p=1.0):
        old, new = (re.findall(r"\w+|[^\w\s]", text) for text in (TEXTS[row["row"]], row["text"]))
        words = augmentation.find_candidates([TEXTS[row["row"]]], toy, glove, keep=KEEP)[0]
        changed = [a.lower() != b.lower() for a, b in zip(old, new, strict=True)]
        assert changed == [bool(not w.kept and w.candidates) for w in words]


def test_words_are_replaced_at_the_rate_asked_for(toy, glove):
    text = "film plot wit actor scene sharp dull good bad funny"
    words = augmentation.find_candidates([text], toy, glove, keep=KEEP)[0]
    random = np.random.default_rng(0)
    replaced = [
        new for _ in range(400) for _, new in augmentation.draw(text, words, random, 0.4)[1]
    ]
    share = np.mean([new is not None for new in replaced])
    assert abs(share - 0.4) < 4 * (0.4 * 0.6 / len(replaced)) ** 0.5


def test_all_candidates_are_drawn_equally_often(toy, glove):
    words = augmentation.find_candidates(["film"], toy, glove, k=5, keep=KEEP)[0]
    random = np.random.default_rng(0)
    drawn = [augmentation.draw("film", words, random, 1.0)[0] for _ in range(2000)]
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(counts) == 5
    assert counts.min() > 400 - 5 * 18
    assert counts.max() < 400 + 5 * 18


def test_new_sentences_are_different_from_the_old_one_and_each_other_and_at_most_n(toy, glove):
    drawn = rows(toy, glove, n=20)
    for number, text in enumerate(TEXTS):
        new = [row["text"] for row in drawn if row["row"] == number]
        assert len(new) == len(set(new)) <= 20
        assert text not in new
    assert len([row for row in drawn if row["row"] == 0]) > 15


def test_blanks_punctuation_and_capitals_of_the_old_sentence_stay(toy, glove):
    text = "  Film , (plot)  DULL."
    for row in rows(toy, glove, [text], p=1.0):
        assert re.fullmatch(r"  [A-Z][a-z]* , \([a-z]+\)  [A-Z][a-z]*\.", row["text"])


def test_text_that_spells_a_special_token_is_left_alone(toy, glove):
    for row in rows(toy, glove, ["the film [MASK] was [SEP] dull"], p=1.0):
        assert "[MASK]" in row["text"]
        assert "[SEP]" in row["text"]


# Pairs ------------------------------------------------------------------------------------------


def test_each_side_of_a_pair_is_varied_while_the_other_stays_what_it_was(toy, glove):
    first, second = ["the sharp film", "he loved music"], ["a tired plot", "she hated music"]
    drawn = rows(toy, glove, first, second, n=6, p=1.0)
    assert {row["side"] for row in drawn} == {0, 1}
    for row in drawn:
        i = row["row"]
        same = (row["text"] == first[i], row["pair"] == second[i])
        assert same == ((False, True) if row["side"] == 0 else (True, False))
    assert sum(row["side"] == 0 and row["row"] == 0 for row in drawn) == 6


# Reproducible -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_size_does_not_decide_what_comes_out(toy, glove, batch):
    assert rows(toy, glove, batch=batch) == rows(toy, glove, batch=7)


def test_the_seed_decides_and_a_row_does_not_depend_on_its_neighbors(toy, glove):
    assert rows(toy, glove, seed=1) == rows(toy, glove, seed=1)
    assert rows(toy, glove, seed=1) != rows(toy, glove, seed=2)
    alone = rows(toy, glove, TEXTS[:1], seed=1)
    assert [row for row in rows(toy, glove, seed=1) if row["row"] == 0] == alone


def many(count=600):
    random = np.random.default_rng(5)
    return [" ".join(random.choice(WORDS, 6)) for _ in range(count)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("calls", [1, 2, 6, 9])
def test_a_killed_run_continues_to_the_same_bytes(toy, glove, tmp_path, monkeypatch, calls):
    texts = many()
    settings = {"n": 4, "seed": 3, "progress": False}
    whole = augmentation.augment_file(tmp_path / "whole.jsonl", texts, None, toy, glove, **settings)
    real, seen = augmentation._ask, []

    def dies(*arguments):
        seen.append(1)
        if len(seen) > calls:
            raise Killed
        return real(*arguments)

    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(augmentation, "_ask", dies)
        with pytest.raises(Killed):
            augmentation.augment_file(out, texts, None, toy, glove, batch=256, **settings)
    assert not out.exists()
    with open(f"{out}.part", "ab") as stream:
        stream.write(b'{"row": 4')  # a kill in the middle of a line
    augmentation.augment_file(out, texts, None, toy, glove, **settings)
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.jsonl.part").exists()


def test_a_finished_file_is_not_made_again_and_other_settings_are_refused(toy, glove, tmp_path):
    out = tmp_path / "out.jsonl"
    augmentation.augment_file(out, TEXTS, None, toy, glove, n=4, progress=False)
    made = out.stat().st_mtime_ns
    augmentation.augment_file(out, TEXTS, None, toy, glove, n=4, progress=False)
    assert out.stat().st_mtime_ns == made
    with pytest.raises(UserError, match="other settings"):
        augmentation.augment_file(out, TEXTS, None, toy, glove, n=5, progress=False)
    with pytest.raises(UserError, match="other settings"):
        augmentation.augment_file(out, TEXTS[:3], None, toy, glove, n=4, progress=False)


def test_what_was_written_is_read_back(toy, glove, tmp_path):
    out = tmp_path / "out.jsonl"
    augmentation.augment_file(out, TEXTS, TEXTS[::-1], toy, glove, n=2, progress=False)
    texts, pairs, old = augmentation.read_augmented(out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert (texts[0], pairs[0], old[0]) == (lines[0]["text"], lines[0]["pair"], lines[0]["row"])
    assert len(texts) == len(pairs) == len(old) == len(lines)


def test_explain_tells_of_the_first_sentence_that_augment_draws(toy, glove):
    text = "the sharp film warmish"
    first = rows(toy, glove, [text], seed=4, p=1.0, n=1)[0]["text"]
    new, records = augmentation.explain(text, toy, glove, seed=4, p=1.0, keep=KEEP)
    assert new == first
    assert [r["way"] for r in records] == ["kept", "masked LM", "masked LM", "GloVe"]
    assert records[1]["asked"] == "the [MASK] film warmish"
    assert new.split() == [r["new"] or r["word"] for r in records]


@pytest.mark.parametrize("wrong", [{"p": 1.2}, {"n": 0}, {"k": 0}, {"together": 0}])
def test_settings_out_of_range_are_errors(toy, glove, wrong):
    with pytest.raises(UserError):
        rows(toy, glove, **wrong)


def test_as_many_pairs_as_texts_are_needed(toy, glove):
    with pytest.raises(UserError, match="2 texts and 1 pairs"):
        rows(toy, glove, TEXTS[:2], TEXTS[:1])


# GloVe ------------------------------------------------------------------------------------------


def test_glove_text_files_load_and_broken_ones_are_errors(tmp_path):
    file = tmp_path / "glove.txt"
    file.write_text("good 1 0\nbad 0.9 0.1\nrain 0 1\n")
    glove = augmentation.Glove.load(file)
    assert [w for w, _ in glove.neighbors(["good"], 2)["good"]] == ["bad", "rain"]
    assert len(augmentation.Glove.load(file, limit=2).words) == 2
    file.write_text("good 1 0\nbad 0.9\n")
    with pytest.raises(UserError, match="GloVe text file"):
        augmentation.Glove.load(file)


def test_neighbors_of_many_words_at_once_are_those_of_each_alone():
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), 6)) for _ in range(300)]
    words = list(dict.fromkeys(words))
    vectors = random.normal(size=(len(words), 8))
    many, alone = augmentation.Glove(words, vectors), augmentation.Glove(words, vectors)
    together = many.neighbors([*words[:150], "unknown"], 5)
    assert together["unknown"] == []
    for word in words[:150:10]:
        names = [name for name, _ in together[word]]
        assert names == [name for name, _ in alone.neighbors([word], 5)[word]]
        cosine = many.vectors @ many.vectors[many.index[word]]
        assert names == [words[i] for i in np.argsort(-cosine)[1:6]]


# The masked LM ----------------------------------------------------------------------------------


def test_logits_at_masks_alone_are_those_of_the_whole_forward(toy):
    model, tokenizer = toy
    batch = tokenizer(["the [MASK] film", "a [MASK]"], padding=True, return_tensors="pt")
    where = batch["input_ids"] == tokenizer.mask_token_id
    with torch.no_grad():
        whole = model(**batch).logits[where]
        ours = masked_lm.masked_logits(model, batch["input_ids"], batch["attention_mask"], where)
    torch.testing.assert_close(ours, whole)


def test_only_words_in_one_piece_are_masked_for_training(toy):
    tokenizer = toy[1]
    words, function = masked_lm.word_kinds(tokenizer)
    texts = ["warm warmish , film coldly the 2 zzz"] * 4
    lines = [np.array(row) for row in tokenizer(texts)["input_ids"]]
    masked = set()
    for step in range(60):
        ids, _, where = masked_lm_training.mask_words(tokenizer, lines, words, function, (0, step))
        masked |= {(int(at), int(ids[row, at])) for row, at in where.nonzero()}
    tokens = tokenizer.convert_ids_to_tokens(lines[0].tolist())
    assert {(at, tokens[at]) for at, _ in masked} == {(1, "warm"), (5, "film"), (8, "the")}


def tiny_training(monkeypatch, toy):
    model, tokenizer = toy

    def base(name):
        torch.manual_seed(1)
        return BertForMaskedLM(model.config)

    monkeypatch.setattr(masked_lm, "_base", base)
    monkeypatch.setattr(masked_lm_training, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(masked_lm, "load_tokenizer", lambda name: tokenizer)


def test_interrupted_training_goes_on_to_the_same_weights(toy, tmp_path, monkeypatch):
    tiny_training(monkeypatch, toy)
    texts = many(80)
    settings = {"batch": 8, "rank": 2, "save_seconds": 0, "seed": 1}
    masked_lm_training.train_masked_lm(texts, tmp_path / "whole", 60, **settings)
    real, seen = masked_lm_training.mask_words, []

    def dies(*arguments):
        seen.append(1)
        if len(seen) == 50:  # steps after the second checkpoint
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(masked_lm_training, "mask_words", dies)
        with pytest.raises(Killed):
            masked_lm_training.train_masked_lm(texts, tmp_path / "part", 60, **settings)
    masked_lm_training.train_masked_lm(texts, tmp_path / "part", 60, **settings)
    files = [tmp_path / run / "model.safetensors" for run in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(UserError, match="other settings"):
        masked_lm_training.train_masked_lm(texts, tmp_path / "part", 60, **settings | {"seed": 2})


@pytest.mark.parametrize("after", ["fit", "save_checkpoint"])
def test_killed_while_the_last_step_is_saved_the_head_is_still_the_last_one(
    toy, tmp_path, monkeypatch, after
):
    tiny_training(monkeypatch, toy)
    settings = {"batch": 8, "rank": 2, "save_seconds": 0, "seed": 1}
    masked_lm_training.train_masked_lm(many(80), tmp_path / "whole", 4, **settings)
    real = getattr(masked_lm_training, after)

    def dies(*arguments, **options):
        real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(masked_lm_training, after, dies)
        with pytest.raises(Killed):
            masked_lm_training.train_masked_lm(many(80), tmp_path / "part", 4, **settings)
    masked_lm_training.train_masked_lm(many(80), tmp_path / "part", 4, **settings)
    files = [tmp_path / run / "model.safetensors" for run in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_saved_head_loads_merged_and_guesses_as_it_did_in_training(toy, tmp_path, monkeypatch):
    tiny_training(monkeypatch, toy)
    masked_lm_training.train_masked_lm(many(80), tmp_path, 12, batch=8, rank=2, learning_rate=0.02)
    model, tokenizer = masked_lm.load_masked_lm("minilm", tmp_path)
    assert not any("lora" in name for name, _ in model.named_parameters())
    fresh = masked_lm.build_masked_lm("minilm", 2)
    ids = tokenizer("the [MASK] was dull", return_tensors="pt")
    from safetensors.torch import load_file

    stored = {
        key: tensor.float() for key, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    before = fresh.eval()(**ids).logits
    fresh.load_state_dict(stored, strict=False)
    torch.testing.assert_close(model(**ids).logits, fresh(**ids).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(**ids).logits, before, atol=1e-2)


def test_a_missing_head_is_an_error_that_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match="make checkpoints"):
        masked_lm.load_masked_lm("minilm", tmp_path)


def test_the_measure_counts_first_and_top_guesses(toy, monkeypatch):
    tokenizer = toy[1]
    film = tokenizer.convert_tokens_to_ids("film")
    logits = torch.zeros(len(tokenizer))
    logits[film] = 5
    logits[tokenizer.convert_tokens_to_ids(",")] = 9  # no word: must not count as a guess
    monkeypatch.setattr(
        masked_lm_training, "masked_logits", lambda m, i, a, w: logits.repeat(w.sum(), 1)
    )
    model = SimpleNamespace(device="cpu")
    measured = masked_lm_training.evaluate_masked_lm(model, tokenizer, ["film plot film plot"], k=3)
    assert measured["words"] == 4
    assert measured["masked_lm_first"] == 0.5


def test_the_shipped_head_offers_words_that_fit():
    pytest.importorskip("peft")
    if not (masked_lm.CHECKPOINT / "model.safetensors").is_file():
        pytest.skip("no shipped masked-LM head")
    shipped = masked_lm.load_masked_lm()
    glove = augmentation.Glove.load()
    _, records = augmentation.explain(
        "The actors gave a great performance in this film.", shipped, glove
    )
    by_word = {record["word"]: dict(record["candidates"]) for record in records}
    assert len(by_word["film"]) == augmentation.K
    assert {"movie", "show", "play", "picture", "story"} & set(by_word["film"])
    assert not any("##" in name or "[" in name for c in by_word.values() for name in c)


# Recombination


ORIGINALS = [
    f"the film number {i} is good in its first half and dull in the rest" for i in range(9)
]


def test_a_recombined_text_is_the_beginning_of_one_text_and_the_end_of_another():
    for text in augmentation.recombine(ORIGINALS, 200):
        words = text.split()
        cuts = range(1, len(words) + 1)
        heads = [any(o.startswith(" ".join(words[:c])) for o in ORIGINALS) for c in cuts]
        tails = [any(o.endswith(" ".join(words[c:])) for o in ORIGINALS) for c in cuts]
        assert any(map(all, zip(heads, tails, strict=True))), text


def test_recombined_texts_are_new_different_and_depend_on_the_seed_alone():
    new = augmentation.recombine(ORIGINALS, 200, seed=1)
    assert len(set(new)) == len(new) == 200 and not set(new) & set(ORIGINALS)
    assert new == augmentation.recombine(ORIGINALS, 200, seed=1)
    assert new != augmentation.recombine(ORIGINALS, 200, seed=2)


def test_few_short_texts_give_what_they_have_and_nothing_twice():
    assert set(augmentation.recombine(["a b", "c d"], 50)) == {
        "a", "c", "a b a b", "a b b", "a b c d", "a b d", "a a b", "a c d", "a d",
        "c a b", "c b", "c c d", "c d a b", "c d b", "c d c d", "c d d",
    }  # fmt: skip
    assert augmentation.recombine([], 5) == augmentation.recombine([" "], 5) == []


def test_of_a_recombined_pair_one_side_is_an_original():
    pairs = [f"book {i} was read by many people" for i in range(9)]
    first, second = augmentation.recombine_pairs(ORIGINALS, pairs, 31)
    assert len(first) == len(second) == 31
    assert all((a in ORIGINALS) != (b in pairs) for a, b in zip(first, second, strict=True))
