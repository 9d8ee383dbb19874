from tracestill.launch.report.parts import by_arm


def test_what_arms_share_is_shown_once_and_named_where_there_are_several():
    def shown(*held):
        arms = {f"<{at}>": {"yield": one} for at, one in enumerate(held)}
        return by_arm({"arms": arms}, "yield", lambda row, own: f"[{own}]")

    assert shown(None, {}) == ""
    assert shown("a", "a", None) == "[a]"
    assert shown("a", "b", "a") == "<h3>&lt;0&gt;</h3>[a]<h3>&lt;1&gt;</h3>[b]"
