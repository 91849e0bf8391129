//! A certificate by which other agents know this one.

use std::time::{Duration, SystemTime};

use realm_proto::link::v1 as proto;
use tokio::time;
use tonic::Request;

use super::{
    LinkError, LinkOptions, OperatorAddress,
    dial::{self, Dialled},
    session::ANSWER_WAIT,
};

/// What the operator signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// PEM, this agent's own certificate first.
    pub certificate_chain: String,
    /// PEM, every authority to be trusted.
    pub ca: String,
    pub not_after: SystemTime,
}

/// Asks each operator once to sign a certificate for the key of `csr_der`, until one does.
pub async fn enroll(options: &LinkOptions, csr_der: &[u8]) -> Result<Enrolled, LinkError> {
    let mut last = LinkError::NoOperator;
    for operator in &options.operators {
        match ask(options, operator, csr_der).await {
            Ok(enrolled) => return Ok(enrolled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(
    options: &LinkOptions,
    operator: &OperatorAddress,
    csr_der: &[u8],
) -> Result<Enrolled, LinkError> {
    let mut last = LinkError::NoOperator;
    for address in dial::resolve(operator).await? {
        let answer = match dial::dial(options, operator, address).await {
            Ok(dialled) => request(dialled, csr_der).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(enrolled) => return Ok(enrolled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn request(dialled: Dialled, csr_der: &[u8]) -> Result<Enrolled, LinkError> {
    let Dialled { mut client, bearer } = dialled;
    let mut request = Request::new(proto::EnrollRequest { csr_der: csr_der.to_vec() });
    request.metadata_mut().insert("authorization", bearer);
    let answer = time::timeout(ANSWER_WAIT, client.enroll(request)).await;
    let answer = answer.map_err(|_| LinkError::Slow { wait: ANSWER_WAIT })?;
    let proto::EnrollResponse { certificate_chain, ca, not_after } =
        answer.map_err(LinkError::from_status)?.into_inner();
    let not_after = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after));
    match not_after {
        Some(not_after) if !certificate_chain.is_empty() && !ca.is_empty() => {
            Ok(Enrolled { certificate_chain, ca, not_after })
        }
        _ => {
            let field = "enroll_response";
            Err(LinkError::Message(crate::ConvertError::Missing { field }))
        }
    }
}
