Job files, NAME.toml, for everybody on this machine:

    [jobs.nightly]
    command = ["/usr/local/bin/dump", "--all"]
    time_limit = "2h"
    output = "on-failure"

`triplock run nightly` runs it, `triplock install systemd nightly` and `triplock install cron nightly` have it started,
and `triplock doctor` says what is wrong here. /usr/share/doc/triplock/jobs.md has every key.
