"""From rows to the ids a model is asked with: templates, begin tokens, and prompts that are too long."""

from __future__ import annotations

import pytest

from dunwu.rollout.prompts import PromptSettings, build_prompts, describe_prompt

USER = {"role": "user", "content": "2+2"}
SYSTEM = {"role": "system", "content": "be brief"}
BOS = 2


def one(tiny, prompt, tokenizer=None, **settings):
    (found,), _ = build_prompts([{"prompt": prompt}], tokenizer or tiny.tokenizer(), PromptSettings(**settings))
    return found


def text_of(tiny, ids):
    return tiny.tokenizer().decode(ids)


def test_text_is_read_as_it_stands(tiny):
    found = one(tiny, "say [user] a")
    assert found.text == "say [user] a"
    assert text_of(tiny, found.ids) == found.text
    assert not found.conversational


def test_messages_go_through_the_template_and_the_answer_is_opened(tiny):
    found = one(tiny, [SYSTEM, USER])
    assert found.text == "[system]be brief;[user]2+2;[assistant]"
    assert text_of(tiny, found.ids) == found.text
    assert found.original == [SYSTEM, USER]
    assert found.conversational


def test_a_last_message_by_the_assistant_is_continued_and_not_closed(tiny):
    """Closing it would make the model start a second answer after the prefill."""
    found = one(tiny, [USER, {"role": "assistant", "content": "let me think"}])
    assert found.text == "[user]2+2;[assistant]let me think"
    assert text_of(tiny, found.ids) == found.text


def test_template_arguments_reach_the_template(tiny):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% if short %}s{% else %}long{% endif %}{{ messages[0]['content'] }}"
    assert one(tiny, [USER], tokenizer).text == "long2+2"
    assert one(tiny, [USER], tokenizer, template_kwargs={"short": True}).text == "s2+2"


@pytest.mark.parametrize("template", ["plain", "bos"])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_begin_token_is_never_doubled(tiny, template, adds_bos):
    """Template and tokenizer both write it: models trained with one begin token answer visibly worse after two."""
    tokenizer = tiny.tokenizer(adds_bos=adds_bos, template=template)
    messages = one(tiny, [USER], tokenizer)
    assert list(messages.ids).count(BOS) == (1 if template == "bos" else 0)
    plain = one(tiny, "2+2", tokenizer)
    assert list(plain.ids).count(BOS) == (1 if adds_bos else 0)
    begun = one(tiny, "<bos>2+2", tokenizer)
    assert list(begun.ids).count(BOS) == 1
    assert begun.ids[0] == BOS


def test_texts_with_and_without_a_begin_token_keep_their_order(tiny):
    """They are encoded in two batches: a mix-up would give a row another row's ids."""
    tokenizer = tiny.tokenizer(adds_bos=True)
    texts = ["a", "<bos>b", "c", "<bos>d"]
    found, _ = build_prompts([{"prompt": text} for text in texts], tokenizer)
    assert [tokenizer.decode(p.ids) for p in found] == ["<bos>a", "<bos>b", "<bos>c", "<bos>d"]
    assert [p.row_index for p in found] == [0, 1, 2, 3]


def test_an_end_token_that_the_tokenizer_appends_is_taken_off(tiny):
    """A prompt that ends with the end token asks a model for what comes after the end of a text."""
    found = one(tiny, "2+2", tiny.tokenizer(adds_bos=True, adds_eos=True))
    assert found.ids[0] == BOS
    assert text_of(tiny, found.ids[1:]) == "2+2"


def test_an_end_token_written_in_a_template_stays(tiny):
    """Chat templates close each turn with it: only what the tokenizer adds by itself is taken off."""
    tokenizer = tiny.tokenizer(adds_eos=True)
    tokenizer.chat_template = "{{ messages[0]['content'] }}<eos>"
    assert one(tiny, [USER], tokenizer).ids[-1] == 1


def test_columns_travel_with_the_prompt(tiny):
    found, _ = build_prompts([{"prompt": "a", "answer": 7}, {"prompt": "b", "answer": None}], tiny.tokenizer())
    assert [p.row["answer"] for p in found] == [7, None]


# -- too long ------------------------------------------------------------------------------------------------------


def test_prompts_too_long_are_dropped_and_counted_and_the_others_keep_their_row_index(tiny):
    """Keys are rows of the dataset: renumbering after a drop would change every random seed."""
    rows = [{"prompt": text} for text in ("abcdef", "ab", "abcdefgh", "abc")]
    found, report = build_prompts(rows, tiny.tokenizer(), PromptSettings(max_length=3))
    assert [(p.row_index, p.text) for p in found] == [(1, "ab"), (3, "abc")]
    assert (report.total, report.dropped, report.cut, report.longest) == (4, 2, 0, 8)
    sentence = report.sentence(3)
    assert "2 of 4 prompts are longer than 3 tokens (the longest has 8) and were dropped" in sentence
    assert "max_prompt_length" in sentence


def test_prompts_too_long_lose_their_beginning_where_that_is_asked_for(tiny):
    rows = [{"prompt": "abcdef"}, {"prompt": "ab"}]
    found, report = build_prompts(rows, tiny.tokenizer(), PromptSettings(max_length=3, overlong="cut"))
    assert [p.text for p in found] == ["def", "ab"]
    assert [text_of(tiny, p.ids) for p in found] == ["def", "ab"]
    assert (report.dropped, report.cut) == (0, 1)
    assert "lost their beginning" in report.sentence(3)


def test_nothing_is_logged_where_every_prompt_fits(tiny):
    _, report = build_prompts([{"prompt": "ab"}], tiny.tokenizer(), PromptSettings(max_length=2))
    assert report.sentence(2) is None


def test_a_prompt_beyond_the_models_context_is_refused_with_row_and_remedy(tiny):
    rows = [{"prompt": "a"}, {"prompt": "abcdef"}]
    with pytest.raises(ValueError, match=r"row 1 has 6 tokens.*leaves 4.*max_prompt_length.*max_completion_length"):
        build_prompts(rows, tiny.tokenizer(), PromptSettings(context_left=4))


def test_the_models_context_is_the_limit_where_the_asked_one_is_larger(tiny):
    """Otherwise positions beyond the context are trained on, which most models answer with noise."""
    rows = [{"prompt": "a"}, {"prompt": "abcdef"}]
    found, report = build_prompts(rows, tiny.tokenizer(), PromptSettings(max_length=100, context_left=4))
    assert [p.text for p in found] == ["a"]
    assert report.dropped == 1


def test_no_prompt_left_is_an_error_with_a_remedy(tiny):
    with pytest.raises(ValueError, match=r"all 2 are longer than 1 tokens; raise max_prompt_length"):
        build_prompts([{"prompt": "abc"}, {"prompt": "ab"}], tiny.tokenizer(), PromptSettings(max_length=1))


# -- refused -------------------------------------------------------------------------------------------------------


def test_a_missing_prompt_column_is_named_with_those_that_are_there(tiny):
    with pytest.raises(ValueError, match=r"row 1 has no 'prompt' column; it has \['answer', 'question'\]"):
        build_prompts([{"prompt": "a"}, {"question": "b", "answer": 1}], tiny.tokenizer())


def test_an_empty_dataset_is_refused(tiny):
    with pytest.raises(ValueError, match="the dataset is empty"):
        build_prompts([], tiny.tokenizer())


@pytest.mark.parametrize(
    "prompt",
    [
        7,
        None,
        [],
        ["2+2"],
        [{"role": "user"}],
        [{"content": "2+2"}],
        [{"role": "user", "content": 4}],
        [USER, {"role": None, "content": "a"}],
        {"role": "user", "content": "2+2"},
    ],
    ids=str,
)
def test_a_malformed_prompt_is_refused_with_its_row(tiny, prompt):
    with pytest.raises(ValueError, match=r"the prompt of row 1 must be text or a list of messages"):
        build_prompts([{"prompt": "a"}, {"prompt": prompt}], tiny.tokenizer())


def test_an_empty_prompt_is_refused_with_its_row(tiny):
    with pytest.raises(ValueError, match="the prompt of row 1 is empty"):
        build_prompts([{"prompt": "a"}, {"prompt": ""}], tiny.tokenizer())


def test_messages_without_a_chat_template_are_refused_with_what_to_do(tiny):
    tokenizer = tiny.tokenizer(template=None)
    assert one(tiny, "2+2", tokenizer).text == "2+2"
    with pytest.raises(ValueError, match=r"no chat template; use an -Instruct model, set tokenizer.chat_template"):
        one(tiny, [USER], tokenizer)


def test_a_tokenizer_without_an_end_token_is_refused_with_what_to_do(tiny):
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"no end token.*set tokenizer\.eos_token"):
        one(tiny, "2+2", tokenizer)


def test_a_described_prompt_shows_each_id_beside_its_text(tiny):
    tokenizer = tiny.tokenizer(adds_bos=True)
    found = one(tiny, "a\nb", tokenizer)
    shown = describe_prompt(found, tokenizer)
    a, newline, b = tokenizer.convert_tokens_to_ids(["a", "\n", "b"])
    assert shown == f"a\nb\n  ids (4): 2:'<bos>' {a}:'a' {newline}:'\\n' {b}:'b'"
    assert describe_prompt(found, tokenizer, most=1).endswith("ids (4): 2:'<bos>' … and 3 more")
