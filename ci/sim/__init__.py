"""The simulation gate on registered versions: run, plan, compare, replay.

`harness/sim` plays episodes of folders; here are the versions, verdicts and files around them. One
module a verb, `contest` what they share.
"""
