"""How a run folder comes to be, is found again, and goes when it was not used."""

import pytest

from allmlp.errors import InputError
from allmlp.recipes import Recipe, load_recipe
from allmlp.runs import create_run, discard_if_unused, is_writer, open_run, scratch_run


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_new_folder_holds_its_recipe(tmp_path):
    recipe = load_recipe(None, {"epochs": 3, "model.args.depth": 2})
    run = create_run(recipe, tmp_path / "deep" / "a")
    assert run.read_recipe() == recipe
    assert f"# Trained by: allmlp train {tmp_path}/deep/a/recipe.yaml" in run.recipe.read_text()
    assert not run.finished


def test_an_existing_folder_is_refused_and_resume_named(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"a exists\. To go on with what is in it: resume=.*a\..*out=\.\.\."):
        create_run(Recipe(), tmp_path / "a")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the system refused: Not a directory"):
        create_run(Recipe(), tmp_path / "file" / "a")


def test_default_names_say_what_on_what_and_are_numbered():
    recipe = load_recipe(None, {"model": "mixer_nano", "data": "/some where/my photos/"})
    names = [str(create_run(recipe)) for _ in range(3)]
    first = "runs/classify/mixer_nano-my-photos"
    assert names == [first, f"{first}-2", f"{first}-3"]
    of_timm = create_run(load_recipe(None, {"model": "timm/resnet18", "data": "list.csv"}))
    assert str(of_timm) == "runs/classify/timm-resnet18-list"


def test_runs_that_cannot_be_made_by_default(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match=r"the system refused: .*Name another: out="):
        create_run(Recipe())


def test_opening_by_folder_and_by_a_file_in_it(tmp_path):
    run = create_run(Recipe(), tmp_path / "a")
    assert open_run(tmp_path / "a") == run
    assert open_run(str(run.recipe)) == run


def test_opening_what_is_not_there_names_the_nearest(tmp_path):
    create_run(Recipe())
    with pytest.raises(InputError, match=r"none at runs/classify/mixer_nano-digit\. Did you mean .*nano-digits\?"):
        open_run("runs/classify/mixer_nano-digit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is a folder without either"):
        open_run(tmp_path / "empty")


def test_opening_where_there_are_no_runs():
    with pytest.raises(InputError, match=r"none at nothing\. `allmlp train` makes one\."):
        open_run("nothing")


def test_an_unused_folder_is_removed_and_a_used_one_stays(tmp_path):
    unused, used = create_run(Recipe(), tmp_path / "a"), create_run(Recipe(), tmp_path / "b")
    used.weights.touch()
    discard_if_unused(unused)
    discard_if_unused(used)
    assert not unused.path.exists()
    assert used.recipe.exists()


def test_history_has_the_columns_of_all_rows(tmp_path):
    run = create_run(Recipe(), tmp_path / "a")
    run.write_history([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "more": "x"}])
    assert run.history.read_text() == "epoch,loss,more\n1,0.5,\n2,0.25,x\n"


@pytest.mark.parametrize("name", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
def test_only_the_first_of_several_processes_writes(name, monkeypatch):
    assert is_writer()
    monkeypatch.setenv(name, "0")
    assert is_writer()
    monkeypatch.setenv(name, "1")
    assert not is_writer()


def test_a_process_that_does_not_write_has_a_folder_aside(tmp_path):
    recipe = load_recipe(None, {"epochs": 3})
    run = scratch_run(recipe)
    assert run.read_recipe() == recipe
    assert tmp_path not in run.path.parents
