"""The policy: which calls may run, decided on canonical arguments. Pure and total.

Glossary:

* *Policy*: one file as written (`load_policy`); *CompiledPolicy*: the same, ready to judge.
* *Rule*: an effect on tools and when it holds; *Effect*: deny before ask before allow.
* *Matcher*: what must be true of one value; its *verdict* is holds, does not hold, cannot be judged.
* *Kind*: what an argument's text means (path, url, host, sql, command); paths, URLs and hosts are
  *canonicalised*: brought to their one spelling, which is both judged and forwarded.
* *Request*, *Judgement*: what is asked, and the decision with the canonical arguments.
* *Case*: a call and the decision it must get; *NearMiss*: a rule that almost held, and why not.
"""

from gateway.core.policy.cases import TestResult
from gateway.core.policy.check import check, policy_json_schema, report
from gateway.core.policy.compile import DENY_ALL, CompiledPolicy, compile_policy
from gateway.core.policy.explain import Explanation, explain
from gateway.core.policy.reading import CaseSet, Policy, cases_file_name, load_cases, load_policy
from gateway.core.policy.request import Judgement, PackFacts, Request

__all__ = [
    "DENY_ALL",
    "CaseSet",
    "CompiledPolicy",
    "Explanation",
    "Judgement",
    "PackFacts",
    "Policy",
    "Request",
    "TestResult",
    "cases_file_name",
    "check",
    "compile_policy",
    "explain",
    "load_cases",
    "load_policy",
    "policy_json_schema",
    "report",
]
