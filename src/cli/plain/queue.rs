//! `queue add`.

use std::ffi::OsString;

use super::{
    super::{
        queue::{Queue, QueueAdd},
        run::CourseOptions,
    },
    GlobalWords,
    run::set_course,
    value,
};

pub(super) fn queue(global: &mut GlobalWords, mut arguments: impl Iterator<Item = OsString>) -> Option<Queue> {
    if arguments.next()? != "add" {
        return None;
    }
    let mut course = CourseOptions::default();
    let (mut lane, mut after, mut even_if_failed, mut command) = (None, Vec::new(), false, Vec::new());
    while let Some(word) = arguments.next() {
        let text = word.to_str()?;
        if text == "--" {
            // Without a lane before it, it is not the command that follows.
            lane.as_ref()?;
            command.extend(arguments);
            break;
        }
        if global.take(text, &mut arguments)? {
            continue;
        }
        match text {
            "-o" | "--close" if !course.close => course.close = true,
            "--even-if-failed" if !even_if_failed => even_if_failed = true,
            "--after" => after.push(value(&mut arguments)?.to_str()?.parse().ok()?),
            option if option.starts_with('-') => set_course(&mut course, option, value(&mut arguments)?.to_str()?)?,
            _ if lane.is_none() => lane = Some(text.parse().ok()?),
            _ => {
                command.push(word);
                command.extend(arguments);
                break;
            }
        }
    }
    if even_if_failed && after.is_empty() {
        return None;
    }
    Some(Queue::Add(Box::new(QueueAdd { lane: lane?, after, even_if_failed, course, command })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{
        run::tests::word,
        tests::{is_plain, words},
    };

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_understood_means_the_same_in_general(
            head in prop::sample::select(vec!["queue", "queue add", "queue add L", "queue add L", "-q queue add L", "queue list"]),
            after in prop::sample::select(vec!["", "--after a/1", "--after a/1 --after b/2 --even-if-failed", "--even-if-failed"]),
            tail in prop::collection::vec(word(), 0..4),
        ) {
            let mut line = words(head);
            line.extend(after.split_whitespace().map(Into::into));
            line.extend(tail.concat().into_iter().map(Into::into));
            is_plain(&line);
        }
    }
}
