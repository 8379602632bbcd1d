//! The list of cases, and what makes tests of them.

/// Calls a macro with the names of all cases.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($each:ident ! { $($given:tt)* }) => {
        $crate::$each! {
            { $($given)* }
            many_streams_at_once
            a_slow_reader_stops_the_writer_and_loses_nothing
            each_direction_ends_by_itself
            a_reset_ends_both_sides
            large_writes_arrive_whole
            tiny_and_empty_writes_arrive_in_order
            a_dropped_stream_still_delivers
            what_was_written_is_acknowledged_before_the_end
            a_burst_of_datagrams_is_counted_and_none_is_corrupted
            an_inbox_that_nobody_reads_drops_the_newest_and_counts
            a_datagram_too_large_is_refused_with_the_size_that_fits
            connecting_may_be_given_up
            accepting_may_be_given_up
            reading_may_be_given_up
            writing_may_be_given_up
            waiting_for_acknowledgement_may_be_given_up
            receiving_may_be_given_up
            asking_the_registry_may_be_given_up
            waiting_to_be_ready_may_be_given_up
            shutting_down_may_be_given_up
            a_late_scheduler_costs_time_alone
            socket_errors_cost_their_packets_alone
            errors_in_receiving_are_passed_over
            errors_of_the_real_system_are_survived
            a_network_that_is_gone_comes_back
            a_change_of_interfaces_is_noticed
            a_dead_socket_is_replaced
            suspends_and_clock_steps_are_survived
            a_peer_that_vanished_is_not_waited_for_after_its_restart
            a_rendezvous_that_restarts_is_found_again
            a_registry_that_is_not_there_is_waited_for
            shutting_down_before_registration
            shutting_down_while_connecting
            shutting_down_ends_every_pending_operation
            shutting_down_with_unsent_bytes
            shutting_down_twice
            nothing_works_after_the_end_and_nothing_hangs
            a_panic_of_the_application_leaves_nothing_open
            the_last_handle_goes_and_the_last_change_stays
            who_cannot_be_connected_to_says_why
            trust_is_asked_for_granted_refused_and_revoked
            agents_are_found_by_hostname_and_by_tags
            a_receiver_of_events_that_lags_is_told
            messages_are_acknowledged_together_once_they_are_stored
            a_file_goes_on_where_it_was_stored
            events_reach_those_who_subscribe
            an_echo_comes_back
            who_does_not_read_its_answers_is_given_up
            refusals_that_nobody_reads_stop_the_sender
            a_broker_that_is_away_is_waited_for_in_peace
            an_end_is_an_end_and_a_receipt_is_kept
            a_task_is_done_and_receipted
            a_task_is_declined_and_another_called_off
            a_worker_goes_on_from_its_records
            who_may_not_submit_is_told
            a_task_waits_for_a_worker_that_is_away
            what_cannot_be_stored_is_not_told
        }
    };
}

/// Calls a macro with the names of the cases that a pair of different adapters has to pass.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cross_cases {
    ($each:ident ! { $($given:tt)* }) => {
        $crate::$each! {
            { $($given)* }
            many_streams_at_once
            a_slow_reader_stops_the_writer_and_loses_nothing
            each_direction_ends_by_itself
            a_reset_ends_both_sides
            large_writes_arrive_whole
            tiny_and_empty_writes_arrive_in_order
            a_dropped_stream_still_delivers
            what_was_written_is_acknowledged_before_the_end
            a_burst_of_datagrams_is_counted_and_none_is_corrupted
            a_datagram_too_large_is_refused_with_the_size_that_fits
            a_network_that_is_gone_comes_back
            a_peer_that_vanished_is_not_waited_for_after_its_restart
            a_rendezvous_that_restarts_is_found_again
            shutting_down_ends_every_pending_operation
            shutting_down_with_unsent_bytes
            who_cannot_be_connected_to_says_why
            trust_is_asked_for_granted_refused_and_revoked
            agents_are_found_by_hostname_and_by_tags
            messages_are_acknowledged_together_once_they_are_stored
            a_file_goes_on_where_it_was_stored
            events_reach_those_who_subscribe
            an_echo_comes_back
            a_task_is_done_and_receipted
        }
    };
}

/// Makes two tests of each case that concerns how agents of two adapters meet, in a module of its
/// own: `cross!(A, B, Rendezvous)`. Either of them connects in one of the two.
#[macro_export]
macro_rules! cross {
    ($a:ty, $b:ty, $rendezvous:ty) => {
        mod there {
            use super::*;
            $crate::__conformance_cross_cases! { __conformance_tests! { $a, $b, $rendezvous } }
        }
        mod back {
            use super::*;
            $crate::__conformance_cross_cases! { __conformance_tests! { $b, $a, $rendezvous } }
        }
    };
}

/// Makes a test of each case: `conformance!(Subject, Rendezvous)`, in a file of its own.
///
/// With two subjects, `conformance!(A, B, Rendezvous)`, the first connects and the second
/// accepts.
#[macro_export]
macro_rules! conformance {
    ($subject:ty, $rendezvous:ty) => {
        $crate::conformance!($subject, $subject, $rendezvous);
    };
    ($a:ty, $b:ty, $rendezvous:ty) => {
        $crate::__conformance_cases! { __conformance_tests! { $a, $b, $rendezvous } }
    };
}

/// See [`conformance!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ({ $a:ty, $b:ty, $rendezvous:ty } $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::drive::conformance::run::case::<
                    <$rendezvous as $crate::drive::conformance::Rendezvous>::Clock,
                >(
                    stringify!($case),
                    $crate::drive::conformance::cases::$case::<$a, $b, $rendezvous>,
                );
            }
        )*
    };
}

/// Where the names of the list go that this crate's own test looks at.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_names {
    ({} $($case:ident)*) => {
        &[$(stringify!($case)),*]
    };
}

/// Cases that change what all agents of a process share: no other runs meanwhile.
pub(super) const ALONE: &[&str] = &["suspends_and_clock_steps_are_survived"];

/// The names of all cases.
pub const CASES: &[&str] = __conformance_cases! { __conformance_names! {} };

#[cfg(test)]
mod tests {
    use super::{ALONE, CASES};
    use std::vec::Vec;

    /// Whoever writes a case and forgets the list learns of it here.
    #[test]
    fn every_case_is_in_the_list_once() {
        let sources = [
            include_str!("cases/streams.rs"),
            include_str!("cases/stalled.rs"),
            include_str!("cases/datagrams.rs"),
            include_str!("cases/cancel.rs"),
            include_str!("cases/host.rs"),
            include_str!("cases/recovery.rs"),
            include_str!("cases/end.rs"),
            include_str!("cases/meeting.rs"),
            include_str!("cases/services.rs"),
            include_str!("cases/tasks.rs"),
        ];
        let mut written: Vec<&str> = sources
            .iter()
            .flat_map(|source| source.lines())
            .filter_map(|line| line.strip_prefix("pub fn ")?.split('<').next())
            .collect();
        let mut listed = CASES.to_vec();
        written.sort_unstable();
        listed.sort_unstable();
        assert_eq!(written, listed);
        assert!(ALONE.iter().all(|name| listed.contains(name)));
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/src/drive/conformance/cases");
        let files = std::fs::read_dir(files).expect("the folder of cases").count();
        assert_eq!(files, sources.len() + 1, "a file of cases that is not looked at");
    }
}
