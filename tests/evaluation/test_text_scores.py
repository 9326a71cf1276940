"""The scores are the published ones: worked out by hand where a hand can."""

import math
import sys

import pytest
import torch

from gensrc.evaluation import text_scores
from gensrc.evaluation.text_scores import bleu, bootstrap, chrf, exact_match, novel, rouge, sentence_chrf, words


def test_bleu_is_the_geometric_mean_of_precisions_times_the_penalty() -> None:
    text, reference = "a b c d e", "a b c d f g"
    precisions = (4 / 5, 3 / 4, 2 / 3, 1 / 2)
    expected = math.exp(1 - 6 / 5) * math.prod(precisions) ** (1 / 4)
    score = bleu([text], [reference], tokenize="none")
    assert score.value == pytest.approx(100 * expected)
    assert "tok:none" in score.signature


def test_bleu_is_of_the_corpus_and_no_mean_of_sentences() -> None:
    texts, references = ["a b c d e f", "x y z w"], ["a b c d e f", "x y v w"]
    both = bleu(texts, references, tokenize="none").value
    precisions = (9 / 10, 6 / 8, 4 / 6, 3 / 4)  # counted over both: 6 + 3, 5 + 1, 4 + 0, 3 + 0
    assert both == pytest.approx(100 * math.prod(precisions) ** (1 / 4))


def test_chinese_is_counted_by_characters() -> None:
    assert bleu(["打开文件夹"], ["打开文件夹"], tokenize="zh").value == pytest.approx(100)
    spaced, plain = bleu(["打 开文件"], ["打开文件"], tokenize="zh"), bleu(["打开文件"], ["打开文件"], tokenize="zh")
    assert spaced == plain
    assert "tok:zh" in plain.signature


def test_lower_case_is_asked_for() -> None:
    assert bleu(["A Dog Runs Far"], ["a dog runs far"]).value < 1
    assert bleu(["A Dog Runs Far"], ["a dog runs far"], lowercase=True).value == pytest.approx(100)


def test_chrf_weighs_recall_twice() -> None:
    # Of "ab" against "abc": unigrams 2/2 and 2/3, bigrams 1/1 and 1/2; longer ones the text does not have.
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    expected = 5 * precision * recall / (4 * precision + recall)
    assert chrf(["ab"], ["abc"]).value == pytest.approx(100 * expected)
    assert sentence_chrf(["ab", "abc"], ["abc", "abc"]).tolist() == pytest.approx([100 * expected, 100])


def test_exact_match() -> None:
    assert exact_match(["打开", "打开 "], ["打开", "打开"]).tolist() == [True, False]


def test_rouge_of_words_pairs_and_subsequences() -> None:
    text, reference = "the cat sat on a mat", "the cat on the mat"
    one, two, longest = (rouge([text], [reference], kind=kind) for kind in text_scores.ROUGE_KINDS)
    assert [float(part) for part in one] == pytest.approx([4 / 6, 4 / 5, 8 / 11])  # the, cat, on, mat
    assert [float(part) for part in two] == pytest.approx([1 / 5, 1 / 4, 2 / 9])  # the cat
    assert [float(part) for part in longest] == pytest.approx([4 / 6, 4 / 5, 8 / 11])
    backwards = rouge(["mat the on cat the"], [reference])
    assert float(backwards.recall) == pytest.approx(3 / 5)  # the on the


def test_the_stemmer_joins_forms_of_a_word() -> None:
    assert float(rouge(["packages"], ["package"]).f1) == 1
    assert float(rouge(["packages"], ["package"], stemmer=False).f1) == 0


def test_words_keep_the_signs_that_names_have() -> None:
    assert words("C++, x.org and X-ray (2.0).") == ["c++", "x.org", "and", "x-ray", "2.0"]


def test_novel_counts_what_the_source_lacks() -> None:
    texts, source = ["a fast editor", "an editor", ""], "A small editor. An editor for a fast machine."
    assert novel(texts, [source] * 3).tolist() == [0, 0, 0]
    assert novel(texts, [source] * 3, n=2).tolist() == pytest.approx([1 / 2, 0, 0])
    assert novel(["a quick editor"], [source]).tolist() == pytest.approx([1 / 3])


def test_the_interval_of_a_mean_is_the_normal_one_for_many_values() -> None:
    values = torch.arange(400.0) % 10
    low, high = bootstrap(values, resamples=4000)
    half = 1.96 * float(values.double().std(unbiased=False)) / math.sqrt(400)
    assert low == pytest.approx(4.5 - half, abs=0.03)
    assert high == pytest.approx(4.5 + half, abs=0.03)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)
    narrower = bootstrap(values, level=0.5)
    assert low < narrower.low < narrower.high < high


@pytest.mark.parametrize("score", [bleu, chrf, sentence_chrf, exact_match, rouge, novel])
def test_columns_that_do_not_belong_together_are_refused(score) -> None:
    for texts, references in (([], []), (["a"], ["a", "b"]), ("a", ["a"]), (["a"], "a")):
        with pytest.raises(ValueError, match=r"counterpart|list"):
            score(texts, references)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="13a"):
        bleu(["a"], ["a"], tokenize="word")
    with pytest.raises(ValueError, match="rougeL"):
        rouge(["a"], ["a"], kind="rougeLsum")
    with pytest.raises(ValueError, match="at least 1"):
        novel(["a"], ["a"], n=0)
    for values in (torch.ones(1), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="finite"):
            bootstrap(values)
    for wrong in ({"resamples": 0}, {"level": 1.0}, {"level": math.nan}):
        with pytest.raises(ValueError, match="level"):
            bootstrap(torch.ones(3), **wrong)


@pytest.mark.parametrize(("score", "package"), [(bleu, "sacrebleu"), (rouge, "rouge-score")])
def test_without_the_package_one_is_told_what_to_install(score, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sacrebleu", "rouge_score"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{package}: install"):
        score(["a"], ["a"])
