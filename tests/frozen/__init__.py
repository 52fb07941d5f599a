"""What users and operators see, as files that `tests/test_frozen*.py` compare the code with.

`python -m tests.frozen` writes them anew, except for two kinds. The config files are copies that an operator may have
taken: they stay as they are. The data directory was left by a service, which `python -m tests.frozen.write_data_dir`
runs. The tokens, keys and certificate in it were made for this test and are worth nothing elsewhere.
"""
