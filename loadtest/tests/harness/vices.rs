//! One vice, one test.

use std::time::Duration;

use crate::stub::{ODD_ACCOUNT, Stub, Vice};
use crate::{Ran, Setup, program, run, scenario};

fn against(vice: Vice, setup: &Setup) -> Ran {
    run(Stub::start(vice).address, setup)
}

#[test]
fn an_honest_server_passes() {
    let stub = Stub::start(Vice::None);
    let ran = run(stub.address, &Setup::default());
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
    assert_eq!(ran.number("/correctness/acknowledged_transactions"), stub.earns() as f64);
    assert_eq!(ran.number("/correctness/transactions_read"), stub.earns() as f64);
    assert_eq!(ran.number("/measured/completed"), ran.number("/measured/scheduled"));
    assert_eq!(ran.summary["environment"]["server_version"], "stub");
    let events = format!("{} events, as acknowledged", stub.earns());
    assert_eq!(ran.summary["correctness"]["events"].as_str(), Some(events.as_str()));
}

#[test]
fn a_stall_is_seen_in_an_open_loop_and_hidden_in_a_closed_one() {
    let vice = Vice::Stall { after: 200, pause: Duration::from_millis(1_400) };
    let open = against(vice, &Setup { seconds: 3, ..Setup::default() });
    assert_eq!(open.code, 0, "{}", open.text);
    // 420 of 900 requests were due while nothing was answered.
    let p99 = open.number("/measured/latency/p99_us");
    assert!((1_200_000.0..2_500_000.0).contains(&p99), "{}", open.text);
    assert!(open.number("/measured/latency/p50_us") < p99);
    // The service time of the few that were sent shows it less: that is why it is not the latency.
    assert!(open.number("/measured/service/max_us") > 1_200_000.0);
    let closed = against(vice, &Setup { mode: "closed", seconds: 3, ..Setup::default() });
    assert_eq!(closed.code, 0, "{}", closed.text);
    assert!(closed.number("/measured/latency/p99_us") < 700_000.0, "{}", closed.text);
    assert!(closed.number("/measured/latency/max_us") > 1_200_000.0, "{}", closed.text);
    assert!(closed.summary["mode"].as_str().unwrap().contains("do not compare"));
}

#[test]
fn answers_that_do_not_come_are_unknown_and_found_by_their_keys() {
    let ran = against(Vice::DropsAnswers(20), &Setup::default());
    assert_eq!(ran.code, 99, "{}", ran.text);
    let unknown = ran.number("/correctness/unknown_outcomes");
    assert!(unknown >= 10.0 && ran.number("/correctness/unknown_executed") == unknown, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
    assert_eq!(ran.number("/measured/errors/closed"), unknown);
    assert_eq!(ran.number("/measured/unknown"), unknown);
}

#[test]
fn requests_that_were_never_executed_are_found_out_too() {
    let ran = against(Vice::DropsRequests(20), &Setup::default());
    assert_eq!(ran.code, 99, "{}", ran.text);
    let unknown = ran.number("/correctness/unknown_outcomes");
    assert!(unknown >= 10.0 && ran.number("/correctness/unknown_not_executed") == unknown, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
}

#[test]
fn a_retry_with_the_same_key_gets_the_first_answer() {
    let more = "[retry]\nattempts = 3\nbackoff_ms = 10\n";
    let ran = against(Vice::DropsAnswers(20), &Setup { more, ..Setup::default() });
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.number("/measured/retries") >= 10.0 && ran.number("/correctness/unknown_outcomes") == 0.0);
}

#[test]
fn a_refused_retry_says_nothing_of_the_attempt_without_an_answer() {
    let more = "[retry]\nattempts = 1\nbackoff_ms = 10\n";
    let ran = against(Vice::DropsAndRefuses(20), &Setup { more, ..Setup::default() });
    assert_eq!(ran.code, 99, "{}", ran.text);
    let unknown = ran.number("/correctness/unknown_outcomes");
    assert!(unknown >= 10.0 && ran.number("/correctness/unknown_executed") == unknown, "{}", ran.text);
    assert_eq!(ran.number("/measured/unknown"), unknown);
    assert_eq!(ran.number("/measured/errors/503 overloaded"), unknown);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
}

#[test]
fn wrong_answers_are_violations() {
    let ran = against(Vice::AnswersWrongly(100), &Setup::default());
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "wrong-answer"), "{}", ran.text);
    assert!(ran.summary["correctness"]["violations"][0]["detail"].as_str().unwrap().contains("was answered by"));
    let replayed = against(Vice::Replays(100), &Setup::default());
    assert_eq!(replayed.code, 98, "{}", replayed.text);
    assert!(replayed.text.contains("never sent before"), "{}", replayed.text);
}

#[test]
fn a_request_applied_twice_is_named() {
    let ran = against(Vice::AppliesTwice(200), &Setup::default());
    assert_eq!(ran.code, 98, "{}", ran.text);
    let violations = ran.violations();
    assert!(violations.contains(&"applied-twice".to_owned()), "{}", ran.text);
    let first = &ran.summary["correctness"]["violations"][0];
    let run_id = ran.summary["run"].as_str().unwrap();
    assert!(first["account"].as_str().unwrap().starts_with(&format!("lt-{run_id}-")), "{first}");
    assert!(first["operations"][0].as_str().unwrap().starts_with(run_id), "{first}");
}

#[test]
fn a_lost_operation_is_named() {
    let ran = against(Vice::Loses(200), &Setup::default());
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "lost"), "{}", ran.text);
    assert!(ran.summary["correctness"]["violations"][0]["operations"][0].is_string());
    assert!(ran.text.contains("CORRECTNESS"), "{}", ran.text);
}

#[test]
fn a_refused_operation_that_was_applied_is_named() {
    let ran = against(Vice::RefusesAndApplies(200), &Setup::default());
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "not-acknowledged"), "{}", ran.text);
    assert!(ran.text.contains("its request was refused"), "{}", ran.text);
    assert!(ran.number("/measured/errors/503 overloaded") > 0.0);
}

#[test]
fn a_sum_that_is_right_by_accident_does_not_hide_changed_transactions() {
    let more = "[[stages]]\nname = 'more'\nseconds = 1\nrate = 300\n";
    // One account, so that the two that were changed lie in the same balance.
    let arguments =
        vec!["--set".to_owned(), "accounts.count=1".to_owned(), "--set".to_owned(), "connections=1".to_owned()];
    let ran = against(Vice::ShiftsPoints(100), &Setup { more, arguments, ..Setup::default() });
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "changed"), "{}", ran.text);
}

#[test]
fn books_that_are_wrong_in_one_way_are_wrong_in_no_other() {
    for (vice, kinds, detail) in [
        // Which cannot be without another lie: nothing is held.
        (Vice::BelowFloor, &["below-floor", "balance"][..], "-1 available points, below the floor 0"),
        (Vice::ShowsWrongBalance, &["balance"], "its transactions say"),
        (Vice::HoldsTooMuch, &["balance"], "its held points changed by 1, its holds say 0"),
        (Vice::SkipsSequence, &["sequence"], "should be"),
    ] {
        let ran = against(vice, &Setup { seconds: 1, ..Setup::default() });
        assert_eq!(ran.code, 98, "{}", ran.text);
        assert_eq!(ran.violations(), kinds, "{}", ran.text);
        let violation = &ran.summary["correctness"]["violations"][0];
        assert!(violation["account"].as_str().unwrap().ends_with(ODD_ACCOUNT), "{violation}");
        assert!(violation["detail"].as_str().unwrap().contains(detail), "{violation}");
    }
}

#[test]
fn an_outcome_that_cannot_be_had_is_a_violation() {
    let ran = against(Vice::HidesOutcomes(100), &Setup { seconds: 1, ..Setup::default() });
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "unresolvable"), "{}", ran.text);
    assert_eq!(ran.number("/correctness/violation_count"), ran.number("/correctness/unknown_outcomes"));
    assert!(ran.text.contains("the outcome of a earn-points cannot be had: 500"), "{}", ran.text);
}

#[test]
fn a_request_without_an_answer_is_given_up_in_time_and_its_outcome_found() {
    let arguments = vec!["--set".to_owned(), "timeout_ms=300".to_owned()];
    let ran = against(Vice::Silent(50), &Setup { arguments, ..Setup::default() });
    assert_eq!(ran.code, 99, "{}", ran.text);
    let timeouts = ran.number("/measured/errors/timeout");
    assert!(timeouts >= 5.0 && ran.number("/measured/unknown") == timeouts, "{}", ran.text);
    assert_eq!(ran.number("/correctness/unknown_executed"), timeouts);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
    // What was waited is in the latencies.
    assert!((300_000.0..2_000_000.0).contains(&ran.number("/measured/latency/max_us")), "{}", ran.text);
}

#[test]
fn a_stream_that_may_not_be_read_is_no_server_without_a_stream() {
    let setup = |arguments: &[&str]| {
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        Setup { seconds: 1, arguments, ..Setup::default() }
    };
    for status in [403, 503] {
        let ran = against(Vice::RefusesEvents(status), &setup(&["--set", "check.patience_ms=300"]));
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert!(ran.text.contains(&format!("the event stream cannot be read: {status}")), "{}", ran.text);
        assert!(ran.text.contains("no-events-here"), "{}", ran.text);
    }
    let stranger = against(Vice::RefusesEvents(401), &setup(&[]));
    assert!(stranger.code == 1 && stranger.text.contains("--token-file"), "{}", stranger.text);
    assert!(!stranger.text.contains("events_max"), "leaving the stream out would not help: {}", stranger.text);
    let absent = against(Vice::RefusesEvents(404), &setup(&[]));
    assert_eq!(absent.code, 0, "{}", absent.text);
    assert_eq!(absent.summary["correctness"]["events"], "the server has no event stream");
    let left_out = against(Vice::RefusesEvents(403), &setup(&["--set", "check.events_max=0"]));
    assert_eq!(left_out.code, 0, "{}", left_out.text);
    assert_eq!(left_out.summary["correctness"]["events"], "not compared");
}

#[test]
fn books_that_may_not_be_read_are_not_proven_and_not_wrong() {
    for status in [403, 503] {
        let arguments = ["--set", "check.patience_ms=300"].map(str::to_owned).to_vec();
        let ran = against(Vice::RefusesBalances(status), &Setup { seconds: 1, arguments, ..Setup::default() });
        assert_eq!(ran.code, 1, "{}", ran.text);
        assert_eq!(ran.summary["correctness"]["conservation"], "not proven");
        assert!(ran.text.contains(&format!("cannot be read: {status}")), "{}", ran.text);
        // What was measured stays.
        assert_eq!(ran.summary["verdict"]["result"], "failed");
        assert!(ran.number("/measured/completed") > 100.0, "{}", ran.text);
    }
}

#[test]
fn a_server_that_dies_leaves_a_report_of_what_was_measured() {
    let arguments = ["--set", "timeout_ms=500"].map(str::to_owned).to_vec();
    let ran = against(Vice::Dies(200), &Setup { seconds: 3, arguments, ..Setup::default() });
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "not proven");
    assert!(ran.text.contains("conservation is not proven"), "{}", ran.text);
    assert!(ran.number("/measured/acknowledged") > 150.0, "{}", ran.text);
    // Nobody listens, and the lines of progress say so.
    assert!(ran.number("/measured/errors/connect") > 0.0, "{}", ran.text);
    assert!(ran.text.lines().any(|line| line.contains(" 0/s") && line.contains("(connect ")), "{}", ran.text);
}

#[test]
fn a_server_that_is_too_busy_for_the_proof_is_asked_again() {
    let ran = against(Vice::Busy(30), &Setup { seconds: 1, ..Setup::default() });
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
}

#[test]
fn an_account_that_was_there_before_and_is_gone_is_lost() {
    let more = "[[stages]]\nname = 'more'\nseconds = 1\nrate = 300\n";
    let arguments = ["--set", "accounts.prefix=kept-"].map(str::to_owned).to_vec();
    let ran = against(Vice::Forgets, &Setup { more, arguments, ..Setup::default() });
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "lost"), "{}", ran.text);
    assert!(ran.text.contains("7 points at sequence 1 before the load, and is gone"), "{}", ran.text);
}

#[test]
fn connections_that_cannot_be_made_say_why() {
    let unchecked = ["--set", "check.level=\"none\"", "--require", "errors<0.1%"];
    let setup = |more: &[&str]| {
        let arguments = unchecked.iter().chain(more).map(|text| (*text).to_owned()).collect();
        Setup { seconds: 1, arguments, ..Setup::default() }
    };
    let refused = run("127.0.0.1:1".parse().unwrap(), &setup(&["--quiet"]));
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("nobody listens there"), "{}", refused.text);
    // An address for documentation, which is no machine's.
    let foreign = against(Vice::None, &setup(&["--sources", "192.0.2.1"]));
    assert_eq!(foreign.code, 1, "{}", foreign.text);
    assert!(foreign.text.contains("none of this machine's"), "{}", foreign.text);
}

#[test]
fn several_runs_end_with_the_worst_code_of_all() {
    // 300 earns a run, evenly spaced, so the 500th is in the second of three.
    let arguments = ["--repeat", "3", "--set", "arrivals=\"uniform\""].map(str::to_owned).to_vec();
    let ran = against(Vice::AppliesTwice(500), &Setup { seconds: 1, arguments, ..Setup::default() });
    assert_eq!(ran.code, 98, "{}", ran.text);
    let code = |number: u32| {
        let path = ran.folder.path().join(format!("out/run-{number}/summary.json"));
        let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        summary["verdict"]["exit_code"].as_u64().unwrap()
    };
    assert_eq!([code(1), code(2), code(3)], [0, 98, 0], "{}", ran.text);
    // A single run into the same folder leaves none of them for `compare`, and what is not the program's own.
    let out = ran.folder.path().join("out");
    std::fs::write(out.join("run-3/notes"), "mine").unwrap();
    let stub = Stub::start(Vice::None);
    let output = crate::running(stub.address, &Setup { seconds: 1, ..Setup::default() }, &ran.folder).output().unwrap();
    let again = crate::outcome(output, ran.folder);
    assert_eq!((again.code, again.number("/verdict/exit_code")), (0, 0.0), "{}", again.text);
    assert!(
        !out.join("run-1").exists() && !out.join("run-3/summary.json").exists() && out.join("run-3/notes").exists()
    );
}

#[test]
fn wrong_books_of_a_run_outweigh_the_next_that_cannot_begin() {
    let arguments = ["--repeat", "3"].map(str::to_owned).to_vec();
    let setup = Setup { seconds: 1, arguments, ..Setup::default() };
    let ran = against(Vice::AppliesTwiceInOneRun(100), &setup);
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.text.contains("run 2 of 3") && ran.text.contains("the event stream cannot be read"), "{}", ran.text);
    let out = ran.folder.path().join("out");
    assert!(out.join("run-1/summary.json").exists() && !out.join("run-2").exists() && !ran.text.contains("run 3 of 3"));
    // Of nothing but good runs and one that could not begin, the program could not do what it was told.
    let ran = against(Vice::AppliesTwiceInOneRun(u64::MAX), &setup);
    assert_eq!(ran.code, 1, "{}", ran.text);
}

/// A search against a server, from 12 to 24 requests a second over one connection.
fn searching(vice: Vice, more: &[&str]) -> Ran {
    let stub = Stub::start(vice);
    let folder = tempfile::tempdir().unwrap();
    let path = scenario(&Setup { connections: 1, ..Setup::default() }, &folder);
    let mut command = program();
    command.arg("search").arg(path).args(["--target", &stub.address.to_string(), "--p99", "500ms", "--errors", "1%"]);
    command.args(["--from", "12", "--to", "24", "--seconds", "1", "--confirm-seconds", "2"]);
    command.args(["--set", "arrivals=\"uniform\"", "--out"]).arg(folder.path().join("out")).args(more);
    crate::outcome(command.output().unwrap(), folder)
}

#[test]
fn a_search_ends_below_what_the_server_can_do_and_confirms_it() {
    // One connection and 50 ms an answer are 20 a second; at 24 the last of three seconds wait for more than 600 ms.
    let calibrated = ["--set", "calibration.seconds=1", "--set", "calibration.connections=1"];
    let ran = searching(Vice::Slow(Duration::from_millis(50)), &calibrated);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.summary["peak_per_second"].is_null(), "no stage of a try is in percent of a peak: {}", ran.text);
    let (_, found) = ran.text.split_once("highest rate that holds: ").unwrap();
    let rate: f64 = found.split_once("/s").unwrap().0.parse().unwrap();
    assert!(rate < 24.0, "{}", ran.text);
    assert!(ran.text.contains("24/s for   1 s: threshold"), "{}", ran.text);
    // The files are those of the confirmation.
    let try_stage = &ran.summary["stages"][1];
    assert_eq!((try_stage["name"].as_str(), try_stage["seconds"].as_f64()), (Some("try"), Some(2.0)));
    assert!((ran.number("/measured/offered_per_second") - rate).abs() <= 1.0, "{}", ran.text);
    assert!(ran.number("/figures/p99") < 500.0 && ran.summary["verdict"]["result"] == "pass", "{}", ran.text);
}

#[test]
fn a_search_ends_with_the_first_run_whose_books_are_wrong() {
    // The first try has 36 earns, so the 50th is in the second; a lower rate would hold.
    let ran = searching(Vice::AppliesTwice(50), &[]);
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.text.contains("12/s for   1 s: pass") && !ran.text.contains("highest rate"), "{}", ran.text);
    assert_eq!(ran.summary["verdict"]["result"], "correctness", "{}", ran.text);
}

#[test]
fn a_search_with_a_late_generator_finds_nothing_about_the_server() {
    // No generator is on time to the microsecond.
    let ran = searching(Vice::None, &["--set", "validity.lag_p99_us_max=0"]);
    assert_eq!(ran.code, 97, "{}", ran.text);
    assert!(ran.text.contains("no rate is known to hold") && ran.text.contains("late"), "{}", ran.text);
}

#[test]
fn a_gap_in_the_event_stream_is_named() {
    let ran = against(Vice::OmitsEvents(200), &Setup::default());
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "events"), "{}", ran.text);
}

#[test]
fn events_of_a_program_that_the_run_brings_along_are_compared() {
    let more = "[[stages]]\nname = 'more'\nseconds = 1\nrate = 300\n";
    let arguments = ["--set", "program=\"cdnow\"", "--set", "program_file=\"cdnow\""].map(str::to_owned).to_vec();
    let ran = against(Vice::OmitsEvents(200), &Setup { more, arguments, ..Setup::default() });
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "events"), "{}", ran.text);
}

#[test]
fn a_slow_server_misses_its_condition() {
    let setup = Setup { rate: 100, require: "p50<20ms,conservation", ..Setup::default() };
    let ran = against(Vice::Slow(Duration::from_millis(50)), &setup);
    assert_eq!(ran.code, 99, "{}", ran.text);
    assert!(ran.number("/measured/latency/p50_us") >= 50_000.0);
    assert!(ran.text.contains("✗ p50<20ms") && ran.text.contains("✓ conservation"), "{}", ran.text);
}

#[test]
fn a_server_that_does_not_keep_up_makes_the_run_invalid() {
    // 8 connections and 50 ms an answer are 160 a second at most, of 400 that are due; 10 may wait.
    let arguments = vec!["--set".to_owned(), "waiting_max=10".to_owned()];
    let setup = Setup { rate: 400, arguments, ..Setup::default() };
    let ran = against(Vice::Slow(Duration::from_millis(50)), &setup);
    assert_eq!(ran.code, 97, "{}", ran.text);
    assert!(ran.text.contains("of the schedule was sent"), "{}", ran.text);
    let (scheduled, sent) = (ran.number("/measured/scheduled"), ran.number("/measured/sent"));
    assert_eq!(scheduled, sent + ran.number("/measured/dropped"), "{}", ran.text);
}

#[test]
fn a_server_that_is_far_behind_does_not_hold_the_run() {
    // As above, but all may wait: 2,000 are due in two seconds, and 480 are answered in the three that late ones have.
    let setup = Setup { rate: 1_000, require: "conservation", ..Setup::default() };
    let ran = against(Vice::Slow(Duration::from_millis(50)), &setup);
    assert_eq!(ran.code, 97, "{}", ran.text);
    let (scheduled, dropped) = (ran.number("/measured/scheduled"), ran.number("/measured/dropped"));
    assert_eq!(scheduled, ran.number("/measured/sent") + dropped, "{}", ran.text);
    assert!(dropped > 1_000.0, "{}", ran.text);
    assert!(ran.text.contains("✓ conservation"), "{}", ran.text);
}

#[test]
fn answers_after_the_end_of_a_stage_are_not_of_its_rate() {
    // As above, but all may wait: 600 are due in two seconds, 160 a second are answered, the rest afterwards.
    let setup = Setup { rate: 300, require: "conservation", ..Setup::default() };
    let ran = against(Vice::Slow(Duration::from_millis(50)), &setup);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert_eq!(ran.number("/measured/completed"), ran.number("/measured/scheduled"), "{}", ran.text);
    assert!(ran.number("/measured/offered_per_second") > 200.0, "{}", ran.text);
    for rate in ["completed_per_second", "goodput_per_second"] {
        let rate = ran.number(&format!("/measured/{rate}"));
        assert!((50.0..170.0).contains(&rate), "{rate} {}", ran.text);
    }
}

#[test]
fn what_is_no_http_is_an_error_with_an_unknown_outcome() {
    let ran = against(Vice::Babbles(50), &Setup::default());
    assert_eq!(ran.code, 99, "{}", ran.text);
    assert!(ran.number("/measured/errors/malformed") > 0.0, "{}", ran.text);
    assert_eq!(ran.number("/correctness/unknown_executed"), ran.number("/measured/errors/malformed"));
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let mut command = program();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.arg("profiles").stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(program().args(["run", "no-such-profile"]).stderr(writer).output().unwrap().status.code(), Some(2));
}

#[test]
fn usage_errors_and_absent_servers_have_their_codes() {
    for (arguments, code, part) in [
        (&["run", "no-such-profile", "--target", "127.0.0.1:1"][..], 2, "headline-100k-50k"),
        (&["run", "smoke"], 2, "--start-node"),
        (&["run", "smoke", "--target", "127.0.0.1:1", "--require", "p99"], 2, "is no condition"),
        (&["run", "smoke", "--target", "127.0.0.1:1", "--require", "p9<1"], 2, "no such figure"),
        (&["run", "smoke", "--target", "127.0.0.1:1", "--require", "errors<50ms"], 2, "is no condition"),
        (&["run", "smoke", "--target", "127.0.0.1:1", "--set", "check.level=none"], 2, "nothing is checked"),
        (&["run", "smoke", "--target", "127.0.0.1:1", "--set", "mix.coffee=1"], 2, "coffee"),
        (&["run", "smoke", "--start-node", "--node", "no-such-program"], 1, "no-such-program"),
        (&["run", "smoke", "--target", "127.0.0.1:1", "--set", "accounts.opening_points=0"], 1, "refused"),
        (&["worker", "127.0.0.1:1"], 2, "MEED_LOADTEST_TOKEN"),
        (&["nonsense"], 2, "nonsense"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = program().args(arguments).current_dir(folder.path()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}
