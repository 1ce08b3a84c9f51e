"""Interpolations are followed as they are written: what may become anything but a text leads nowhere."""

import pytest

from tl_lightning.interpolations import expanded, raw_in

CONFIG = {
    "name": "mine",
    "hydra": {"job": {"name": "tl", "num": "???"}, "sweep": {"dir": "out/${name}/${now:%Y-%m-%d_%H-%M-%S}"}},
    "a": {"number": 3, "node": {"x": 1}, "list": ["x"], "null": None, "broken": "x\ny"},
    "later": "${a.${hydra.runtime.output_dir}}",
    "chosen": "${oc.select:a.${hydra.job.num},x}",
    "decoded": "${oc.decode:x}",
    "two": "${one}",
    "one": "${name}",
    "round": "${about}",
    "about": "${round}",
    "env": "${oc.env:HOME}/${oc.env:NO,x}",
}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("plain", "plain"),
        ("${name}", "mine"),
        ("a ${two} ${a.number}", "a mine 3"),
        ("${ name }", "mine"),
        ("${hydra.sweep.dir}/%j", "out/mine/later/%j"),
        ("${hydra.runtime.output_dir}/x.log", "later/x.log"),
        ("${a.broken}", "x\ny"),
        ("${env}", "later/later"),
    ],
)
def test_a_text_is_told(text: str, meant: str) -> None:
    assert expanded(text, raw_in(CONFIG)) == meant


@pytest.mark.parametrize(
    "text",
    [
        *("${later}", "${chosen}", "${decoded}", "x ${decoded}", "${a.node}", "${a.list}", "${a.list[0]}", "${a.null}"),
        *(
            "${nosuch}",
            "${.name}",
            "${..name}",
            "${...a.node}",
            "${round}",
            "${",
            "${name",
            "${a.${name}}",
            "${oc.create:x}",
        ),
        *("${oc.create:x}", "${hydra:job.name}", "${oc.dict.values:a}", "${now:${name}}", "${}", "$" + "{" * 9),
    ],
)
def test_what_may_be_something_else_leads_nowhere(text: str) -> None:
    assert expanded(text, raw_in(CONFIG)) is None
