from mmalign.evaluation.gallery import CASES, gallery, mark_false
from mmalign.world.scene import Scene, Thing

SCENE = Scene((Thing("red", "circle", "small", 0, 0, 0), Thing("blue", "star", "large", 5, 0, 0)), 0)
FALSE = " There is a purple cross and a black moon."


def test_only_false_claims_are_marked():
    marked = mark_false("A red circle, a large green moon and a blue star. No yellow moon.", [SCENE])
    assert marked == (
        'A red circle, a large <mark title="not in the picture">green moon</mark> and a blue star. No yellow moon.'
    )


def test_same_words_denied_elsewhere_stay_unmarked():
    marked = mark_false("A pink ring. There is no pink ring.", [SCENE])
    assert marked.count("<mark") == 1
    assert marked.startswith('A <mark title="not in the picture">pink ring</mark>')


def test_an_answer_is_text_not_html():
    assert mark_false("<b>a red circle</b> & co", [SCENE]) == "&lt;b&gt;a red circle&lt;/b&gt; &amp; co"


def test_cases_follow_the_rule(small_answers):
    """Each description falls into one case, and the first of a case are shown in the order of the tasks."""
    described = [answer for answer in small_answers if answer.kind == "describe"]
    mended = [answer._replace(base=answer.base + FALSE) for answer in described[:6]]
    worse = [answer._replace(aligned=answer.aligned + FALSE) for answer in described[6:8]]
    left = [answer._replace(base=answer.base + FALSE, aligned=answer.base + FALSE) for answer in described[8:9]]
    lost = [answer._replace(aligned="There is nothing.") for answer in described[9:10]]
    cases, num_described = gallery([*reversed(described[10:]), *lost, *left, *worse, *reversed(mended)])
    assert num_described == 12
    assert {case.key: case.num_found for case in cases} == {"mended": 6, "worse": 2, "left": 1, "lost": 1}
    shown = next(case for case in cases if case.key == "mended").cards
    assert [card.id for card in shown] == [answer.id for answer in mended[:4]]
    assert sum(most for *_, most in CASES) == 12
