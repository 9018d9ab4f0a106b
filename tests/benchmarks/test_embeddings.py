"""Scores of embeddings whose values are known, and texts to score them by."""

import numpy as np
import pytest

from .embeddings import areas, read_texts, reciprocal_ranks


def test_a_perfect_embedding_finds_each_paraphrase_first() -> None:
    assert reciprocal_ranks(np.repeat(np.eye(5), 2, axis=0)).tolist() == [1] * 5


def test_the_rank_is_that_of_the_paraphrase_both_ways() -> None:
    angles = np.radians([0, 30, 90, 10, 180, 170])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # From 0, its own (30) is second to 10; from 30, its own (0) is first. From 90, its own (10)
    # comes after 30 and ties with 170; from 10, it is second to 0. 180 and 170 are nearest.
    assert reciprocal_ranks(rows) == pytest.approx([(1 / 2 + 1) / 2, (1 / 2.5 + 1 / 2) / 2, 1])


def test_an_embedding_that_knows_nothing_is_no_better_than_chance() -> None:
    same = np.ones((128, 3))
    # In the middle of 64 that tie.
    assert reciprocal_ranks(same) == pytest.approx([1 / 32.5] * 64)
    assert areas(same, np.arange(128) % 4) == pytest.approx([0.5] * 128)
    random = np.random.default_rng(0).normal(size=(400, 50))
    assert areas(random, np.arange(400) % 8).mean() == pytest.approx(0.5, abs=0.02)


def test_the_area_counts_pairs_of_an_own_and_another_passage() -> None:
    angles = np.radians([0, 40, 20, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # From 0, its own (40) is nearer than 90, not than 20: one of two. From 40, its own is 40 away,
    # others 20 and 50. From 20, 70 and others 20 and 20: none. From 90, 70 and others 90 and 50.
    labels = np.array([0, 0, 1, 1])
    assert areas(rows, labels) == pytest.approx([0.5, 0.5, 0, 0.5])


def test_the_texts_are_many_and_of_several_origins() -> None:
    texts = read_texts()
    assert len(texts.sentences) == 2 * 64
    assert len(set(texts.sentences)) == 128
    for passages, origins in (
        (texts.topics, texts.topic_of),
        (texts.documents, texts.document_of),
    ):
        assert len(passages) == len(origins) > 40
        assert set(origins) == set(range(max(origins) + 1))
        assert all(120 <= len(passage) <= 300 for passage in passages)
