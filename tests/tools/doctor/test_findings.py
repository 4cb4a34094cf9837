"""Checks of `mmalign doctor` at work: one that breaks is a finding, and what stands on it is not checked."""

from mmalign.tools.doctor.findings import Check, Status, examine, ok, unknown


def lines(*checks):
    return {result.name: result for result in examine(checks)}


def test_a_check_that_breaks_is_a_finding_and_the_others_run():
    def broken():
        raise ZeroDivisionError("by nothing")

    found = lines(Check("first", broken), Check("second", lambda: ok("fine")))
    assert found["first"].status == Status.FAILED
    assert "ZeroDivisionError: by nothing" in found["first"].found
    assert found["second"].status == Status.OK


def test_what_stands_on_a_failed_or_unknown_check_is_not_checked():
    def wrong():
        raise ValueError("`x` is wrong. Set it.")

    found = lines(
        Check("a", wrong),
        Check("b", lambda: ok("fine"), ("a",)),
        Check("c", lambda: ok("fine"), ("b",)),
        Check("d", lambda: unknown("not here", "Get it.")),
        Check("e", lambda: ok("fine"), ("d",)),
    )
    assert found["a"].found == "`x` is wrong. Set it."
    assert [found[name].status for name in "abcde"] == [Status.FAILED, *[Status.WARNING] * 4]
    assert "`a`" in found["b"].remedy
    assert "`a`" in found["c"].remedy, "the cause, not the next in line"
    assert found["e"].found == "not checked"
