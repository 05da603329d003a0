"""One file per kind of task: how its tasks are drawn, what a method is given, and how a clip is scored."""
