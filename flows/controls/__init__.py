"""The negative controls, a module a method: flow `<method>_control` makes the run and its control, and compares them.

May import `pipeline_lib`, `tasks` and the method's own flow.
"""
