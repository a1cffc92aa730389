"""A deployment's prices and cap, and what a task says instead."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.job.policy import check_policy
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.money.prices import Prices, parse_prices
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.operators import OpenAIBatchSubmitOperator
from airflow_openai_batch.options import Reuse
from airflow_openai_batch.task.job import with_options
from airflow_openai_batch.task.submitting import START_OVER, start_over_text

PRICES, MAX_COST = "AIRFLOW__OPENAI_BATCH__PRICES", "AIRFLOW__OPENAI_BATCH__MAX_COST"
DOLLAR = 10**12


def test_without_options_a_policy_stays_as_it_is(monkeypatch):
    monkeypatch.delenv(PRICES, raising=False)
    monkeypatch.delenv(MAX_COST, raising=False)
    policy = Policy(max_cost=DOLLAR, prices={"m": {"input": 1}})
    assert with_options(policy) == policy


def test_a_deployment_has_a_cap_unless_the_task_has_one(monkeypatch):
    monkeypatch.setenv(MAX_COST, "2.5")
    assert with_options(Policy()).max_cost == 5 * DOLLAR // 2
    assert with_options(Policy(max_cost=DOLLAR)).max_cost == DOLLAR


def test_prices_of_the_task_go_before_those_of_the_deployment(monkeypatch, tmp_path):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"mine": {"input": 1, "output": 2}, "ours": {"input": 3, "output": 4}}))
    monkeypatch.setenv(PRICES, str(file))
    own = {"mine": {"input": 9, "output": 9}}
    assert with_options(Policy(prices=own)).prices == {"ours": {"input": 3, "output": 4}, **own}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"\[openai_batch\] prices = .* cannot be read as a JSON file"),
        ("no JSON", r"\[openai_batch\] prices = .* cannot be read as a JSON file"),
        ("[1]", r"\[openai_batch\] prices \(.*\) must be a dict of prices by model"),
        ('{"m": {"input": "cheap"}}', r"\[openai_batch\] prices \(.*\): the price of 'm' cannot be used"),
    ],
)
def test_prices_that_cannot_be_used_name_the_option(monkeypatch, tmp_path, content, problem):
    file = tmp_path / "prices.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(PRICES, str(file))
    with pytest.raises(OpenAIBatchFailure, match=problem):
        with_options(Policy())


def test_a_cap_that_is_no_amount_names_the_option(monkeypatch):
    monkeypatch.setenv(MAX_COST, "a lot")
    with pytest.raises(OpenAIBatchFailure, match=r"\[openai_batch\] max_cost must be an amount of US dollars"):
        with_options(Policy())


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"max_cost": -1}, "max_cost must be an amount of US dollars"),
        ({"max_cost": "a lot"}, "max_cost must be an amount of US dollars"),
        ({"max_cost": True}, "max_cost must be an amount of US dollars"),
        ({"prices": {"m": {"inptu": 1}}}, "prices: the price of 'm' cannot be used"),
        ({"max_cost": "1e9999999"}, "max_cost may be at most 9,000,000 US dollars"),
        ({"prices": "prices.json"}, "prices is a text, 'prices.json', and must be a dict"),
        ({"reuse": "a\ud800"}, "reuse: the name .* is no valid Unicode"),
        ({"pilot_rows": 0}, "pilot_rows must be at least 1"),
        ({"pilot_rows": "ten"}, "wrong type"),
    ],
)
def test_mistakes_about_money_are_errors_of_the_dag_file(setting, problem):
    with pytest.raises(OpenAIBatchFailure, match=problem):
        OpenAIBatchSubmitOperator(
            task_id="submit", rows="/x.csv", endpoint="/v1/responses", body={"model": "m", "input": "{a}"}, **setting
        )


def operator(**arguments) -> OpenAIBatchSubmitOperator:
    return OpenAIBatchSubmitOperator(
        task_id="submit", rows="/x.csv", endpoint="/v1/responses", body={"model": "m", "input": "{a}"}, **arguments
    )


@pytest.mark.parametrize("reuse", ["labels-{{ team }}", Reuse("labels-{{ team }}")])
def test_ledger_cap_and_prices_are_rendered(reuse):
    submit = operator(reuse=reuse, max_cost="{{ cap }}", prices={"m": {"input": "{{ price }}", "output": 1}})
    submit.render_template_fields({"team": "support", "cap": 2.5, "price": 0.05})
    policy = submit._policy()
    check_policy(policy)
    assert (policy.reuse, policy.max_cost) == ("labels-support", 5 * DOLLAR // 2)
    tariff = Prices(parse_prices(policy.prices, "prices")).tariff("m")
    assert tariff is not None and tariff.rates.input == 50_000


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"prices": "{{ table }}"}, "prices is a text, .* and must be a dict"),
        ({"max_cost": "{{ missing }}"}, "max_cost must be an amount of US dollars"),
    ],
)
def test_what_a_template_renders_is_checked_when_it_is_rendered(setting, problem):
    submit = operator(**setting)
    submit.render_template_fields({"table": {"m": {"input": 1}}, "missing": None})
    with pytest.raises(InputError, match=problem):
        submit._policy()


@pytest.mark.parametrize("value", ["", "false", "False", " no ", "0", 0, "none", "null", "off", False, None])
def test_a_no_in_the_conf_does_not_start_over(value):
    assert start_over_text({"dag_run": SimpleNamespace(conf={START_OVER: value})}) is None


@pytest.mark.parametrize("value", ["true", "1", 1, True, "2026-11-22", "again"])
def test_any_other_text_in_the_conf_starts_over(value):
    assert start_over_text({"dag_run": SimpleNamespace(conf={START_OVER: value})}) == str(value)
