"""Who may say what: keys, the repository of approved versions, and the robot's check of it.

Two documents say whose signatures count. The *keyring* lists who may publish, judge, direct and
approve, and each robot's key: what they sign is statements and documents, each in a seal. *Root*,
the top of the repository's metadata, lists who may change root, who approves, and the online key:
what they sign is metadata. An approver's key is in both, and the keyring itself is an approved
file, so that robots believe no other (`publishing`).

A private key is opened in `keys` and found by `places`. `signers` are those at hand for metadata,
`role_signers` those that sign in a role of the keyring.
"""
