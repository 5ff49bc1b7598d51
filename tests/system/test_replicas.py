"""Two api replicas are one service: what one was told, the other knows."""

import os

import pytest

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def stack(make_stack):
    return make_stack(driver="oci", apis=2)


def test_output_is_readable_through_the_other_while_it_runs(stack):
    one, other = stack.tangos
    ident, lab, output = one.submit("autograde:\n\t@echo early; sleep 2; echo late\n")
    other.wait_output(ident, "early")
    assert other.partial(ident)["output"] == "early\n"
    assert [j["id"] for j in other.jobs(dead=False)] == [ident]
    other.wait_dead(ident)
    feedback = other.poll(lab, output)
    assert feedback.endswith(b"\nearly\nlate\n") and feedback == one.poll(lab, output)


def test_upload_here_add_there(stack):
    one, other = stack.tangos
    assert one.open("shared")["statusMsg"] == "Created directory"
    one.upload("shared", "Makefile", "autograde:\n\t@echo hi\n")
    found = other.open("shared")
    assert found["statusMsg"] == "Found directory" and list(found["files"]) == ["Makefile"]
    ident = other.add("shared", "out")
    one.wait_dead(ident)
    assert one.poll("shared", "out").endswith(b"\nhi\n")


def test_ids_grow_over_both(stack):
    one, other = stack.tangos
    ids = []
    for i in range(6):
        ids.append((one, other)[i % 2].submit("autograde:\n\t@true\n")[0])
    assert ids == sorted(set(ids))
    for ident in ids:
        one.wait_dead(ident)


def test_one_is_killed_the_other_serves_on(stack):
    one, other = stack.tangos
    ident, lab, output = one.submit("autograde:\n\t@sleep 1; echo here\n")
    stack.apis[0].kill()
    try:
        other.wait_dead(ident)
        assert other.poll(lab, output).endswith(b"\nhere\n")
    finally:
        stack.apis[0].start()
        stack.wait_api(one)
    assert one.poll(lab, output).endswith(b"\nhere\n")
