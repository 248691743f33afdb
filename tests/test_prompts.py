"""The prompt: what stands before the source and between source and target."""

import pytest

from simulmask_plugin.text.prompts import (
    PLAIN_HEADER,
    PLAIN_INSTRUCTION,
    READ_END,
    WRITE_END,
    Prompt,
    escape,
    interleaved_prompt,
    plain_prompt,
)


def test_languages_fill_the_placeholders_of_all_parts():
    prompt = Prompt("From {source_lang} to {target_lang}: ", " {target_lang}:", "\n{source_lang}:")
    assert prompt.render("English", "German") == ("From English to German: ", " German:", "\nEnglish:")


def test_golden_plain_prompt():
    prompt = plain_prompt(PLAIN_INSTRUCTION, PLAIN_HEADER, "<s>")
    assert prompt.render("English", "German") == (
        "<s>Translate the following sentence from English to German:",
        "\nAssistant:",
        "",
    )


def test_braces_of_bos_and_of_escaped_text_stay_braces():
    assert plain_prompt("a", "b", "{bos}").render("x", "y") == ("{bos}a", "b", "")
    assert Prompt(escape("{0} {} {{source_lang}}"), ":").render("x", "y")[0] == "{0} {} {{source_lang}}"


@pytest.mark.parametrize("before", ["", "Translate:\n", "Translate: ", "Translate:\t", "Translate:\u3000"])
def test_first_unit_is_unspaced_at_the_start_and_after_white_space(before):
    assert not Prompt(before, ":").source_is_spaced


def test_first_unit_is_spaced_after_text():
    prompt = Prompt("Translate:", "\nAssistant:")
    assert prompt.source_is_spaced
    assert prompt.target_is_spaced


def test_target_is_unspaced_after_a_line_break():
    assert not Prompt("Translate:", "<|assistant|>\n").target_is_spaced


@pytest.mark.parametrize(
    "before, header, message",
    [
        ("a", "", "header is empty; the first target token is predicted from it"),
        (
            "{language}",
            ":",
            r"Unknown placeholder \{language\} .*expected \{source_lang\}, \{target_lang\}, \{latency\}",
        ),
        ("a", "{}", r"Unknown placeholder \{\} in the prompt '\{\}'.*write \{\{ and \}\} for braces"),
        ("{source_lang.x}", ":", r"Unknown placeholder \{source_lang\.x\}"),
        ("{source_lang", ":", r"'\{source_lang'.*write \{\{ and \}\} for braces"),
        ("a }", ":", r"'a \}'.*write \{\{ and \}\} for braces"),
    ],
)
def test_prompts_that_cannot_be_rendered_are_refused(before, header, message):
    with pytest.raises(ValueError, match=message):
        Prompt(before, header)


def test_interleaved_prompt_has_its_header_before_the_source_and_special_tokens_around_the_target():
    prompt = interleaved_prompt(Prompt("Translate with {latency} latency.", "\nAssistant:"))
    assert prompt.render("English", "German", "low") == ("Translate with low latency.\nAssistant:", READ_END, WRITE_END)
    assert prompt.target_is_spaced


def test_first_target_is_unspaced_behind_a_special_token_where_the_first_source_is():
    assert not interleaved_prompt(Prompt("Translate.", "<|assistant|>\n\n")).target_is_spaced
