#![allow(clippy::unwrap_used)]

use std::future::Future;

use tempfile::TempDir;

use super::*;

fn open(dir: &TempDir, options: &AliasOptions) -> (Aliases, AliasOwner) {
    Aliases::open(&dir.path().join("aliases"), [1; 16], &[2; 32], options).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn alias(text: &str) -> Alias {
    normalize(text).unwrap()
}

#[test]
fn an_alias_resolves_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (aliases, owner) = open(&dir, &AliasOptions::default());
    run(async {
        let phone = alias("+62 812-3456");
        assert_eq!(aliases.resolve("p", &phone).await.unwrap(), Answer::Done(None));
        assert_eq!(aliases.put("p", &phone, "m-1").await.unwrap(), Answer::Done(PutOutcome::New));
        assert_eq!(aliases.resolve_cached("p", &phone).as_deref(), Some("m-1"));
        assert_eq!(aliases.resolve_cached("q", &phone), None);
        assert_eq!(aliases.put("p", &phone, "m-1").await.unwrap(), Answer::Done(PutOutcome::Same));
        let listed = aliases.list("p", "m-1").await.unwrap();
        assert_eq!(listed, Answer::Done(vec!["phone:+628123456".to_owned()]));
        assert_eq!(aliases.delete("p", "m-2", &phone).await.unwrap(), Answer::Done(false));
        assert_eq!(aliases.resolve_cached("p", &phone).as_deref(), Some("m-1"));
        assert_eq!(aliases.delete("p", "m-1", &phone).await.unwrap(), Answer::Done(true));
        assert_eq!(aliases.resolve_cached("p", &phone), None);
        assert_eq!(aliases.resolve("p", &phone).await.unwrap(), Answer::Done(None));
        aliases.put("p", &alias("a@b"), "m-9").await.unwrap();
    });
    drop(aliases);
    owner.join().unwrap();
    let (aliases, owner) = open(&dir, &AliasOptions::default());
    let mail = alias("A@b");
    assert_eq!(aliases.resolve_cached("p", &mail), None);
    assert_eq!(run(aliases.resolve("p", &mail)).unwrap(), Answer::Done(Some("m-9".into())));
    assert_eq!(aliases.resolve_cached("p", &mail).as_deref(), Some("m-9"));
    drop(aliases);
    owner.join().unwrap();
}

/// Sends requests without waiting, so that they meet in one group.
fn ask_at_once<T>(aliases: &Aliases, requests: Vec<Request>, replies: Vec<oneshot::Receiver<Result<T>>>) -> Vec<T> {
    for request in requests {
        aliases.requests.try_send(request).ok().unwrap();
    }
    replies.into_iter().map(|reply| reply.blocking_recv().unwrap().unwrap()).collect()
}

#[test]
fn of_two_puts_at_once_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let table = Rows::Own(AliasTable::open(dir.path(), [1; 16], &[2; 32], &AliasOptions::default()).unwrap());
    let cache = Arc::new(AliasCache::new(10));
    let mut owner = Owner { table, cache, fault: Fault::default() };
    let mut group = Group::default();
    let mut ask = |account: &str| {
        let (reply, answer) = oneshot::channel();
        let (program, alias, account) = ("p".to_owned(), alias("card:7"), account.to_owned());
        owner.serve(Request::Put { program, alias, account, reply }, &mut group).unwrap();
        answer
    };
    // One group, nothing committed between the two.
    let (mut first, mut second) = (ask("m-1"), ask("m-2"));
    assert_eq!(first.try_recv().unwrap().unwrap(), PutOutcome::New);
    assert_eq!(second.try_recv().unwrap().unwrap(), PutOutcome::TakenBy("m-1".to_owned()));
}

#[test]
fn puts_of_one_account_in_one_group_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (aliases, owner) = open(&dir, &AliasOptions::default());
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for n in 0..17 {
        let (reply, answer) = oneshot::channel();
        let (program, account) = ("p".to_owned(), "m-1".to_owned());
        requests.push(Request::Put { program, alias: alias(&format!("card:{n}")), account, reply });
        replies.push(answer);
    }
    let outcomes = ask_at_once(&aliases, requests, replies);
    assert!(outcomes[..16].iter().all(|outcome| *outcome == PutOutcome::New));
    assert_eq!(outcomes[16], PutOutcome::TooMany);
    let Answer::Done(listed) = run(aliases.list("p", "m-1")).unwrap() else { panic!("overloaded") };
    assert_eq!(listed.len(), 16);
    drop(aliases);
    owner.join().unwrap();
}

#[test]
fn independent_writes_share_a_commit_and_an_answer_comes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let table = Rows::Own(AliasTable::open(dir.path(), [1; 16], &[2; 32], &AliasOptions::default()).unwrap());
    let mut owner = Owner { table, cache: Arc::new(AliasCache::new(100)), fault: Fault::default() };
    let mut group = Group::default();
    let mut answers = Vec::new();
    for n in 0..50 {
        let (reply, answer) = oneshot::channel();
        let (program, account) = ("p".to_owned(), format!("m-{n}"));
        let request = Request::Put { program, alias: alias(&format!("card:{n}")), account, reply };
        owner.serve(request, &mut group).unwrap();
        answers.push(answer);
    }
    assert_eq!(group.decided.len(), 50);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()), "not durable yet");
    assert_eq!(owner.table.resolve("p", "card:7").unwrap(), None);
    owner.commit(&mut group).unwrap();
    for mut answer in answers {
        assert_eq!(answer.try_recv().unwrap().unwrap(), PutOutcome::New);
    }
    assert_eq!(owner.table.resolve("p", "card:7").unwrap().unwrap(), "m-7");
}

#[test]
fn a_full_queue_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (aliases, owner) = open(&dir, &AliasOptions::default());
    drop(aliases);
    owner.join().unwrap();
    // A handle whose owner takes nothing.
    let (requests, queue) = mpsc::channel(1);
    let stuck = Aliases {
        requests,
        cache: Arc::new(AliasCache::new(1)),
        hasher: AliasHasher::new(&[2; 32]),
        fault: Fault::default(),
    };
    let (reply, _answer) = oneshot::channel();
    let waiting = Request::List { program: "p".to_owned(), account: "m-1".to_owned(), reply };
    stuck.requests.try_send(waiting).ok().unwrap();
    assert_eq!(run(stuck.list("p", "m-1")).unwrap(), Answer::Overloaded);
    drop(queue);
    assert!(matches!(run(stuck.list("p", "m-1")), Err(Error::Stopped(_))));
}

#[test]
fn a_fault_stops_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (aliases, owner) = open(&dir, &AliasOptions { cache_entries: 1, ..AliasOptions::default() });
    run(async {
        aliases.put("p", &alias("card:1"), "m-1").await.unwrap();
        aliases.put("p", &alias("card:2"), "m-2").await.unwrap();
        // Another key in the slot of the first.
        let path = dir.path().join("aliases/alias-keys");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[32..64].fill(7);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(aliases.resolve_cached("p", &alias("card:1")), None);
        assert!(matches!(aliases.resolve("p", &alias("card:1")).await, Err(Error::Damaged { .. })));
        assert!(matches!(aliases.put("p", &alias("card:3"), "m-3").await, Err(Error::Damaged { .. })));
    });
    assert!(matches!(owner.join(), Err(Error::Damaged { .. })));
}
