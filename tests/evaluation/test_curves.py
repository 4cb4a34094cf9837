from mmalign.evaluation.curves import draw, moving_mean, read_logs


def write_log(folder, rows):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n" + "\n".join(rows) + "\n")


def test_train_and_validation_rows_are_read_by_key(tmp_path):
    write_log(tmp_path / "csv" / "version_0", ["0,0,0.69,", "0,1,0.6,", "0,1,,0.65"])
    assert read_logs(tmp_path) == {"train/loss": [(0, 0.69), (1, 0.6)], "val/loss": [(1, 0.65)]}


def test_resumed_log_replaces_what_it_ran_again(tmp_path):
    """version_10 comes after version_9: versions are numbers, not words."""
    write_log(tmp_path / "version_9", ["0,0,0.7,", "0,1,0.6,", "0,2,0.5,"])
    write_log(tmp_path / "version_10", ["0,1,0.61,", "0,2,0.51,", "0,3,0.4,"])
    assert read_logs(tmp_path)["train/loss"] == [(0, 0.7), (1, 0.61), (2, 0.51), (3, 0.4)]


def test_torn_last_line_is_read_as_far_as_it_goes(tmp_path):
    write_log(tmp_path / "version_0", ["0,0,0.7,", "0,1"])
    assert read_logs(tmp_path) == {"train/loss": [(0, 0.7)]}


def test_no_log_draws_nothing(tmp_path):
    assert draw(read_logs(tmp_path)) == []


def test_moving_mean_of_a_straight_line_is_that_line():
    assert moving_mean([0.0, 1.0, 2.0, 3.0, 4.0], 2) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_svg_takes_its_colours_from_the_page():
    """No fixed colour for text or lines, and no id that another curve of the page has."""
    logs = {"train/loss": [(step, 1 / (step + 1)) for step in range(40)], "val/loss": [(39, 0.1)]}
    logs |= {"train/reward_margin": [(0, 0.0), (1, 0.1)]}
    loss, margin = draw(logs)
    assert loss.svg.startswith("<svg")
    assert "currentColor" in loss.svg
    assert "var(--series-1)" in loss.svg
    assert "#0a0b0" not in loss.svg
    assert 'id="loss-' in loss.svg
    assert 'id="reward-margin-' in margin.svg
