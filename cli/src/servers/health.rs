//! `cairn health`: the standard gRPC health service of a master or chunkserver.
use crate::args::Health;
use crate::config::{Address, Config, Raw, Setting, Span};
use crate::failure::{Failure, Result};
use crate::verbs::Out;
use cairn_io::Env;
use std::time::Duration;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub async fn run(options: &Health, config: &Config, out: Out<'_>) -> Result<()> {
    let wrong_timeout = || {
        Failure::usage(format_args!(
            "--timeout {}: expected {}",
            options.timeout,
            Span::EXPECTS
        ))
    };
    let within = options.timeout.parse::<Span>().map_err(|()| wrong_timeout())?.0;
    let address = match &options.address {
        None => config.client.master.clone(),
        Some(text) => Address::parse(Raw::Text(text))
            .ok_or_else(|| Failure::usage(format_args!("{text}: expected {}", Address::EXPECTS)))?,
    };
    match ask(address.as_str(), within).await {
        Ok(()) => {
            if !options.quiet {
                writeln!(out, "{address}: serving")?;
            }
            Ok(())
        }
        Err(_) if options.quiet => Err(Failure::Silent),
        Err(cause) => Err(Failure::new(&address, cause)),
    }
}

/// Whether the server at `address` serves.
///
/// # Errors
/// Why not, for people.
pub async fn ask(address: &str, within: Duration) -> std::result::Result<(), String> {
    let asked = async {
        let channel = cairn_io::grpc::connect(Env::real().net, address, within)
            .await
            .map_err(|e| {
                format!(
                    "no answer: {}; is it running, and is this its address?",
                    crate::failure::plain(&e)
                )
            })?;
        let request = HealthCheckRequest { service: String::new() };
        HealthClient::new(channel)
            .check(request)
            .await
            .map_err(|e| match e.code() {
                tonic::Code::Unimplemented => "answers, but has no health service".to_owned(),
                _ => format!("no health: {}", e.message()),
            })
    };
    let answer = tokio::time::timeout(within, asked)
        .await
        .map_err(|_| format!("no answer within {} s", within.as_secs_f64()))??;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        _ => Err("is up and does not serve yet".into()),
    }
}
